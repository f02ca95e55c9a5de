"""What a stage shows while it runs: one bar, on the main process; what transformers would print is held back."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingProgress(TrainerCallback):
    """A bar over steps, and the seconds trained, also over runs that were interrupted (kept in the log history)."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.seconds = 0.0
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar where the checkpoint was."""
        self._before = max((float(entry.get("seconds", 0.0)) for entry in state.log_history), default=0.0)
        self.seconds = self._before
        self._start = time.monotonic()
        self._rate, self._first = self.num_tokens / state.max_steps, state.global_step
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", unit=" steps", mininterval=1
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Moves the bar. A checkpoint comes with a log entry, so that no mean loss spans an interruption."""
        control.should_log |= control.should_save and state.global_step < state.max_steps
        self.seconds = self._before + time.monotonic() - self._start
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the loss (nats a token) and notes the seconds in the log entry."""
        if not state.log_history:
            return
        entry = state.log_history[-1]
        entry["seconds"] = round(self.seconds, 1)
        if self._bar is not None and "loss" in entry:
            # A bar that TQDM_DISABLE switches off knows no steps.
            rate = self._rate * (state.global_step - self._first) / max(1e-9, self.seconds - self._before)
            self._bar.set_postfix_str(f"loss {entry['loss']:.4f}, {rate / 1000:.1f}K tokens/s", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
