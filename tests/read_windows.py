"""Windows of a mixture, read back."""

from __future__ import annotations

from collections import Counter

import numpy as np

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.training.windows import Mixture


def read_windows(made: Mixture) -> tuple[list[np.ndarray], np.ndarray]:
    """Every window's tokens, padding left out, and which are useful."""
    windows = np.arange(len(made))
    rows = []
    for window in windows:
        ids, labels = made.batch(np.array([window]))
        rows.append(ids[0][labels[0] != -100])
    return rows, made.is_useful(windows)


def texts_in(windows: list[np.ndarray]) -> Counter:
    """The texts in windows that follow each other, whole ones and cut ones."""
    found, part = Counter(), []
    for token in np.concatenate(windows).tolist():
        if token == EOS_ID:
            found.update([tuple(part)] if part else [])
            part = []
        else:
            part.append(token)
    return found
