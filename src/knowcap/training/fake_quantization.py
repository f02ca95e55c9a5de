"""Training with fake quantization, from a share of the steps on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from knowcap.models.quantized.fake import FakeQuantization
from knowcap.models.quantized.settings import Settings
from knowcap.recipe import Recipe


logger = logging.getLogger(__name__)


@contextmanager
def fake_quantized(trainer: Trainer, model: PreTrainedModel, recipe: Recipe) -> Iterator[FakeQuantization | None]:
    """Within it, `trainer` trains `model` with the recipe's fake quantization, if it has one.

    Yields:
        the fake quantization; None without one.

    Raises:
        ModelError: the architecture cannot be quantized with the recipe's settings.
    """
    settings = Settings.fake(recipe)
    if settings is None:
        yield None
        return
    fake = FakeQuantization(model, settings)
    start = FakeQuantizationStart(fake, recipe.fake_quantization_start)
    trainer.add_callback(start)
    with fake.applied():
        yield fake


class FakeQuantizationStart(TrainerCallback):
    """Begins to round weights after a share of the steps; a resumed training goes by the step, too."""

    def __init__(self, fake: FakeQuantization, share: float) -> None:
        self.fake, self.share = fake, share

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Logs what is rounded, and from which step on."""
        logger.info(
            "fake quantization of %d weights to int%d after step %d of %d",
            self.fake.num_weights, self.fake.settings.bits, self._before(state), state.max_steps,
        )  # fmt: skip

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Rounds in this step if enough steps are done."""
        self.fake.active = state.global_step >= self._before(state)

    def _before(self, state: TrainerState) -> int:
        return round(self.share * state.max_steps)
