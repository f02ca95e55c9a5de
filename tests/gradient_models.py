"""The models whose gradients are compared."""

from __future__ import annotations

from dataclasses import replace

from knowcap.recipe import Recipe


DENSE = Recipe(
    run_name="dense", corpus="bioD", compact=True, num_people=40, num_attributes=2, diversity=16, chunk_length=2,
    alphabet_size=4, exposures=2, block_size=30, windows="aligned", model_name="gpt2-rotary-2-2", head_dim=16,
    initializer_range=0.1, train_batch_size=8, max_grad_norm=0.0,
)  # fmt: skip


# So large a weight that the auxiliary loss is seen; two micro-batches, as two processes have.
MIXTURE = replace(
    DENSE, run_name="mixture", model_name="gpt2-moe-2-2-4", router_aux_loss_coef=1.0, gradient_accumulation_steps=2
)
