"""Tokens a second of training: knowcap's step, a bare PyTorch loop over the same windows, and the stock Trainer over a
plain `datasets` set; each also as a share of this machine's matrix peak. Run by hand, on a machine that does nothing
else:

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/train.py [--config quickstart] [--threads 1] [--torch_compile true]

The loops take turns, and the best of their turns counts. Padding is not counted as tokens. FLOP are 6 a parameter and
token, those of attention left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_with_min_lr_schedule_with_warmup,
)

from knowcap.corpus.base import tokenizer_of
from knowcap.dataset.corpora import sample_of
from knowcap.models import build_model, recipe_config
from knowcap.models.quiet import quiet_transformers
from knowcap.recipe import Recipe
from knowcap.run.launch import set_up_process
from knowcap.run.preflight import load_recipe
from knowcap.training.kernels import faster_training
from knowcap.training.packing import Stream
from knowcap.training.stage import training_arguments_of, windows_of
from knowcap.training.trainer import StreamTrainer
from knowcap.training.windows import Mixture, stream_of


WARM_UP = 10  # steps that are not timed


@dataclass(frozen=True)
class Setting:
    """What the loops share."""

    recipe: Recipe
    stream: Stream | Mixture
    rows: int
    steps: int

    def model(self) -> PreTrainedModel:
        """The recipe's model, fresh."""
        return build_model(recipe_config(self.recipe, self.rows), self.recipe.seed)

    def arguments(self, folder: str) -> TrainingArguments:
        """The recipe's, without checkpoints and logs."""
        args = training_arguments_of(self.recipe, Path(folder))
        args.max_steps = self.steps + WARM_UP
        args.set_save(strategy="no")
        args.set_logging(strategy="no")
        return args


class Clock(TrainerCallback):
    """Seconds (wall, CPU) from the end of the warm-up to the last step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts after the warm-up, ends after the last step."""
        if state.global_step == WARM_UP:
            self.began = now()
        if state.global_step == state.max_steps:
            self.took = now() - self.began


def now() -> np.ndarray:
    """Seconds: wall, and of this process' CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def ours(setting: Setting) -> np.ndarray:
    """The training stage's Trainer and loss."""
    clock, model = Clock(), setting.model()
    windows = windows_of(setting.recipe, setting.stream)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        args = setting.arguments(folder)
        stack.enter_context(faster_training(model, setting.recipe.torch_compile))
        trainer = StreamTrainer(model=model, args=args, train_dataset=windows, data_collator=dict, callbacks=[clock])
        return _trained(trainer, clock)


def stock(setting: Setting) -> np.ndarray:
    """The stock Trainer over a `datasets` set of the same windows, padded by a collator."""
    clock, size = Clock(), setting.recipe.train_batch_size
    ids = setting.stream.windows(np.arange((setting.steps + WARM_UP) * size))

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = [torch.tensor(row["input_ids"]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        labels = pad(found, batch_first=True, padding_value=-100)
        return {"input_ids": pad(found, batch_first=True), "labels": labels}

    dataset = Dataset.from_dict({"input_ids": [row.tolist() for row in ids]})
    with tempfile.TemporaryDirectory() as folder:
        args = setting.arguments(folder)
        trainer = Trainer(
            model=setting.model(), args=args, train_dataset=dataset, data_collator=collate, callbacks=[clock]
        )
        return _trained(trainer, clock)


def _trained(trainer: Trainer, clock: Clock) -> np.ndarray:
    trainer.remove_callback(PrinterCallback)
    with quiet_transformers():
        trainer.train()
    return clock.took


def bare(setting: Setting) -> np.ndarray:
    """A loop of PyTorch's own parts: the model's loss, clipping, AdamW, the learning rate."""
    r, model = setting.recipe, setting.model().train()
    forward = torch.compile(model) if setting.recipe.torch_compile else model
    betas = (r.adam_beta1, r.adam_beta2)
    optimizer = torch.optim.AdamW(
        model.parameters(), r.learning_rate, betas, r.adam_epsilon, r.weight_decay, fused=True
    )
    schedule = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, r.warmup_steps, setting.steps + WARM_UP, min_lr_rate=r.min_learning_rate_ratio
    )
    began = now()
    for step, batch in enumerate(batches(setting)):
        if step == WARM_UP:
            began = now()
        forward(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), r.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return now() - began


def batches(setting: Setting) -> Iterator[dict[str, torch.Tensor]]:
    """The windows of each step."""
    size = setting.recipe.train_batch_size
    windows = windows_of(setting.recipe, setting.stream)
    for step in range(setting.steps + WARM_UP):
        yield windows.__getitems__(list(range(step * size, (step + 1) * size)))


def matrix_peak() -> float:
    """FLOP a second of a product of two square matrices in float32."""
    a, best = torch.randn(1024, 1024), np.inf
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best


LOOPS: dict[str, Callable[[Setting], np.ndarray]] = {
    "knowcap": ours,
    "bare PyTorch loop": bare,
    "stock Trainer, datasets": stock,
}


def main() -> None:
    """Prints tokens a second of the three loops, and their ratios to the bare one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    args, words = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    overrides = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    setting = make(load_recipe(args.config, overrides), args.steps)
    model = setting.model()
    parameters, timed = model.num_parameters(), [batch["labels"] for batch in batches(setting)][WARM_UP:]
    tokens = sum(int((labels != -100).sum()) for labels in timed)
    padding = 1 - tokens / sum(labels.numel() for labels in timed)
    peak = matrix_peak()
    print(f"{setting.recipe.model_name}, {parameters:,} parameters, {tokens / args.steps:,.0f} tokens a step ", end="")
    print(f"and {padding:.1%} padding, {args.threads} thread(s), matrix peak {peak / 1e9:.0f} GFLOP/s")
    best = dict.fromkeys(LOOPS, np.array([np.inf, np.inf]))
    for _ in range(args.turns):
        for name, loop in LOOPS.items():
            best[name] = np.minimum(best[name], loop(setting))
    for name, (wall, cpu) in best.items():
        share = 6 * parameters * tokens / wall / peak
        ratio, of_cpu = best["bare PyTorch loop"] / (wall, cpu)
        print(
            f"{name:<24}{tokens / wall / 1e3:8.1f} K tokens/s {1e3 * wall / args.steps:7.1f} ms a step, "
            f"{share:6.1%} of matrix peak, {ratio:.3f} of the bare loop ({of_cpu:.3f} by CPU time)"
        )


def make(recipe: Recipe, steps: int) -> Setting:
    """The first windows of a recipe, as many exposures as the steps need."""
    corpus = sample_of(recipe, 1000)
    tokenizer, rows = tokenizer_of(recipe, corpus)
    recipe = replace(recipe, exposures=1)
    stream = stream_of(recipe, corpus, tokenizer)
    stream.count()
    needed = (steps + WARM_UP) * recipe.train_batch_size
    stream = stream_of(replace(recipe, exposures=-(-needed // len(stream)) + 1), corpus, tokenizer)
    stream.count()
    return Setting(recipe, stream, rows, steps)


if __name__ == "__main__":
    set_up_process()
    main()
