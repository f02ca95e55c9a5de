"""A stream's windows as the Trainer takes them: a Dataset of whole batches, in an order that is there already."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from knowcap.training.mixture import Mixture
from knowcap.training.packing import Stream


class Windows(Dataset):
    """The stream's windows for a DataLoader, a whole batch at a time; empty ones fill the last step up."""

    def __init__(self, stream: Stream | Mixture, batch_size: int) -> None:
        self.stream = stream
        self.steps = -(-len(stream) // batch_size)
        self._size = self.steps * batch_size

    def __len__(self) -> int:
        """Windows of all steps, a multiple of the batch size."""
        return self._size

    def __getitems__(self, windows: list[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels, (batch, length) int64; labels are -100 where padded."""
        real = np.array([w for w in windows if w < len(self.stream)] or [0])
        input_ids, labels = self.stream.batch(real)
        if real.size and windows[0] >= len(self.stream):
            labels[:] = -100
        missing = len(windows) - len(real)
        if missing:
            input_ids = np.pad(input_ids, ((0, missing), (0, 0)))
            labels = np.pad(labels, ((0, missing), (0, 0)), constant_values=-100)
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


class From(Sampler[int]):
    """Windows in their order, from the first that is not trained on yet."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size

    def __iter__(self):
        """Yields window numbers."""
        return iter(range(self.start, self.size))

    def __len__(self) -> int:
        """All windows, trained on or not, so that steps are counted from the beginning."""
        return self.size
