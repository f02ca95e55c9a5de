"""The transformers Trainer over windows that are already shuffled: data set, sampler, progress bar, checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.files import read_json, write_json, writing
from knowcap.processes import ProcessError
from knowcap.processes.signals import held, note, noted, raise_noted
from knowcap.progress import Bar, progress_bar
from knowcap.training.checkpoints import STAGING, finish, remove_old, steps_after
from knowcap.training.grouping import LengthGroups
from knowcap.training.packing import Stream, TrainingError
from knowcap.training.routing import AUX_LOSS, SHARES, Routing
from knowcap.training.windows import Mixture


PENDING = "pending_loss.json"  # in a checkpoint that a signal asked for
_MOST_STEPS = 100  # between two questions whether a process has had a signal


class WindowDataset(Dataset):
    """The stream's windows for a DataLoader, a whole batch at a time; masked windows fill up the last step.

    Batches are padded to their longest window, or to `length`: a compiled model is compiled once for each shape.
    """

    def __init__(
        self, stream: Stream | Mixture, batch_size: int, length: int = 0, groups: LengthGroups | None = None
    ) -> None:
        """With `groups`, which are the stream's and of that batch size, windows come in their order."""
        self.stream, self.length, self.groups = stream, length, groups
        self.steps = -(-len(stream) // batch_size)
        self._size = self.steps * batch_size

    def __len__(self) -> int:
        """The number of windows of all steps, a multiple of the batch size."""
        return self._size

    def __getitems__(self, windows: list[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels, (batch, length) int64; labels are -100 where padded."""
        real = np.array([w for w in windows if w < len(self.stream)] or [0])
        input_ids, labels = self.stream.batch(real if self.groups is None else self.groups(real))
        if real.size and windows[0] >= len(self.stream):
            labels[:] = -100
        missing = ((0, len(windows) - len(real)), (0, max(0, self.length - input_ids.shape[1])))
        if missing != ((0, 0), (0, 0)):
            input_ids = np.pad(input_ids, missing, constant_values=EOS_ID)
            labels = np.pad(labels, missing, constant_values=-100)
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


class ResumableSampler(Sampler[int]):
    """Indices in order, from the first that was not trained on before."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size

    def __iter__(self) -> Iterator[int]:
        """Yields indices."""
        return iter(range(self.start, self.size))

    def __len__(self) -> int:
        """The number of all indices, so that steps are counted from the beginning."""
        return self.size


class ResumableTrainer(Trainer):
    """The Trainer over a data set that is already shuffled, starting at `first_index` of it.

    Its checkpoints are whole or do not exist, see `checkpoints`. A signal that is `held` ends training after the step,
    with a checkpoint that is resumed from as if there had been none.
    """

    first_index = 0

    def __init__(self, *args: Any, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """`settings` are those that its checkpoints are for; the rest is the Trainer's."""
        super().__init__(*args, **kwargs)
        self.settings = settings or {}
        self._resumed: Path | None = None
        self._goes_on = False
        self._damaged: frozenset[int] = frozenset()
        self._staging = Path(cast(str, self.args.output_dir), STAGING)
        self._saving = False
        self.remove_callback(PrinterCallback)
        self.add_callback(cast(Any, _Ending(self)))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains, from a checkpoint if one is given.

        Raises:
            Interrupted: a signal ended training; a checkpoint was saved.
            ProcessError: a process that assembles batches was ended.
            WriteError: a checkpoint could not be written.
        """
        self._resumed = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else None
        first = int(self._resumed.name.rsplit("-", 1)[1]) if self._resumed else 0
        self._damaged = steps_after(Path(cast(str, self.args.output_dir)), first)
        try:
            with held():
                return super().train(resume_from_checkpoint, *args, **kwargs)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise_noted()
            raise ProcessError(
                f"{' '.join(str(error).split())}; run again with fewer dataloader_num_workers"
            ) from error

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of a step; before the first one of a resumed training, the checkpoint's random state.

        The Trainer loads it too, but then makes the loader's iterator, which draws a number that the training without
        an interruption drew at its beginning.
        """
        found = super().get_batch_samples(*args, **kwargs)
        if self._resumed is not None and not self._goes_on:
            self._load_rng_state(str(self._resumed))
            self._goes_on = True
        return found

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves a checkpoint, whole or not at all, then removes old ones."""
        step, folder = self.state.global_step, Path(cast(str, self.args.output_dir))
        made, final = self._staging / f"checkpoint-{step}", folder / f"checkpoint-{step}"
        pending, main = self._pending(), self.is_world_process_zero()
        with writing(final):
            if main:
                shutil.rmtree(self._staging, ignore_errors=True)
                self._staging.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving = False
            self.accelerator.wait_for_everyone()
            if main:
                if pending is not None:
                    write_json(made / PENDING, pending)
                finish(made, final, self.settings)
                remove_old(folder, step, self.args.save_total_limit, self._damaged)
                shutil.rmtree(self._staging, ignore_errors=True)
        self._damaged = frozenset()

    def _pending(self) -> dict[str, Any] | None:
        """The losses since the last one that was logged, of each process; None if it was this step's."""
        if self.state.global_step == self._globalstep_last_logged or not hasattr(self, "_tr_loss"):
            return None
        losses = self.accelerator.gather(self._tr_loss.reshape(1))
        return {"since": self._globalstep_last_logged, "losses": cast(torch.Tensor, losses).tolist()}

    def _continue(self, pending: Mapping[str, Any]) -> None:
        """Goes on summing the losses that a checkpoint has."""
        losses, mine = pending["losses"], self.args.process_index
        same = len(losses) == self.args.world_size
        loss = losses[mine] if same else sum(losses) / len(losses)
        self._tr_loss = torch.tensor(loss, device=self.args.device)
        self._globalstep_last_logged = pending["since"]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        return ResumableSampler(self.first_index, len(cast(Sized, self.train_dataset)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the weights as from_pretrained does.

        The Trainer looks for the model's own names only. A mixture's experts are saved one by one, but are one tensor
        of the model: they would stay as they were initialized.
        """
        if self.is_fsdp_enabled or not isinstance(self.model, PreTrainedModel):  # shards; an adapter
            return super()._load_from_checkpoint(resume_from_checkpoint, cast(Any, model))
        loaded, found = cast(Any, type(self.model)).from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype, use_safetensors=True, output_loading_info=True
        )
        if wrong := {kind: sorted(map(str, keys)) for kind, keys in found.items() if keys}:
            raise TrainingError(f"{resume_from_checkpoint} does not match the model: {wrong}; delete this checkpoint")
        self.model.load_state_dict(loaded.state_dict())


class _Ending(TrainerCallback):
    """Ends training after a step, with a checkpoint, when a signal has come to one of the processes."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer
        self._next, self._began, self._steps = 0, 0.0, 1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up what the checkpoint had not logged."""
        self._next, self._began = state.global_step + 1, time.monotonic()
        resumed = self._trainer._resumed
        if resumed is not None and (resumed / PENDING).is_file():
            self._trainer._continue(read_json(resumed / PENDING))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Asks for a checkpoint and the end. The Trainer counts a resumed training's epoch from its resumption."""
        state.epoch = state.global_step / state.max_steps * state.num_train_epochs
        if self._is_asked(args, state.global_step):
            control.should_save = control.should_training_stop = True
            control.should_log |= not hasattr(self._trainer, "_tr_loss")  # transformers 4 does not give the losses

    def _is_asked(self, args: TrainingArguments, step: int) -> bool:
        """Whether any process has had a signal. Several processes ask one another about once a second, at a step that
        is the same for all of them."""
        if args.world_size == 1 or not torch.distributed.is_initialized():
            return noted() is not None
        if step < self._next:
            return False
        now = time.monotonic()
        found = torch.tensor([float(noted() or 0), now - self._began], device=args.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        number, seconds = found.tolist()
        steps = max(1, self._steps)
        self._steps = min(_MOST_STEPS, max(1, int(steps / max(1e-6, seconds))))
        self._next, self._began = step + self._steps, time.monotonic()
        if number:
            note(int(number))
        return bool(number)


class StreamTrainer(ResumableTrainer):
    """The Trainer over a data set that is already shuffled, starting at `first_index` of it.

    `loss` in the log is nats per token for every architecture: a mixture's auxiliary loss is logged separately as
    `router_aux_loss` (unweighted; none where the model has none), with the smallest and the largest share of a layer's
    tokens that an expert gets; log_history holds all shares, (layers, experts), in `expert_shares`.
    """

    def __init__(self, model: PreTrainedModel, args: TrainingArguments, **kwargs: Any) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.routing = Routing(model)
        if self.routing.layers and hasattr(model, "router_aux_loss_coef"):
            # The Trainer sums the losses of processes and micro-batches, each a part of the mean over tokens but with
            # a whole auxiliary loss: without this its weight would grow with their number.
            cast(Any, model).router_aux_loss_coef /= self.accelerator.num_processes * args.gradient_accumulation_steps

    def _pending(self) -> dict[str, Any] | None:
        found = super()._pending()
        return found and found | ({"routing": self.routing.sums(self.accelerator)} if self.routing.layers else {})

    def _continue(self, pending: Mapping[str, Any]) -> None:
        super()._continue(pending)
        if "routing" in pending and self.args.process_index == 0:  # they are of all processes
            self.routing.restore(pending["routing"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs, with a mixture's routing since the last loss."""
        shares = None
        if self.routing.layers and "loss" in logs:
            aux, shares = self.routing.take(self.accelerator)
            if aux is not None:
                logs["loss"] -= cast(Any, self.model).config.router_aux_loss_coef * aux
                logs[AUX_LOSS] = aux
            flat = [share for layer in shares for share in layer]
            logs |= {"expert_share_min": min(flat), "expert_share_max": max(flat)}
        super().log(logs, start_time)
        if shares is not None:
            cast(Any, self.state.log_history[-1])[SHARES] = shares


class TrainingProgress(TrainerCallback):
    """A progress bar over steps, and the seconds trained, including interrupted runs (kept in the log history)."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.seconds = 0.0
        self._bar: Bar | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the bar at the checkpoint's step."""
        self._before = max((float(entry.get("seconds", 0.0)) for entry in state.log_history), default=0.0)
        self.seconds = self._before
        self._start = time.monotonic()
        self._rate, self._first = self.num_tokens / state.max_steps, state.global_step
        if state.is_world_process_zero:
            self._bar = progress_bar(
                total=state.max_steps, initial=state.global_step, desc="training", unit=" steps", mininterval=1
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Updates the bar. Logs at each checkpoint, so that no mean loss spans an interruption, and at the last step
        and the one before it, so that the last loss is the last step's."""
        control.should_log |= control.should_save or state.global_step >= state.max_steps - 1
        self.seconds = self._before + time.monotonic() - self._start
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the loss (nats per token) and adds the seconds to the log entry."""
        if not state.log_history:
            return
        entry = state.log_history[-1]
        entry["seconds"] = round(self.seconds, 1)
        if self._bar is not None and "loss" in entry:
            # Steps are counted here, since a bar that TQDM_DISABLE switches off does not count them.
            rate = self._rate * (state.global_step - self._first) / max(1e-9, self.seconds - self._before)
            self._bar.set_postfix_str(f"loss {entry['loss']:.4f}, {rate / 1000:.1f}K tokens/s", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
