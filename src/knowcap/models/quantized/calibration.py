"""The texts that GPTQ keeps a model's outputs on: biographies of the data set that it was trained on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from knowcap.models.quantized.settings import QuantizationError


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUM_TEXTS = 1000  # as in Part 3.3
_BATCH = 64


@dataclass(frozen=True)
class Calibration:
    """Token ids in batches of one length each, (texts, length) int64, unpadded; how many texts and tokens in all."""

    batches: tuple[torch.Tensor, ...]
    texts: int
    tokens: int


def read_calibration(
    dataset_dir: Path, tokenizer: PreTrainedTokenizerFast, longest: int | None = None, count: int = NUM_TEXTS
) -> Calibration:
    """Biographies at even distances through a data set, each after the end-of-text token, as they are scored.

    Args:
        dataset_dir: a data set folder; its config `biographies` holds texts of training.
        tokenizer: the model's.
        longest: positions that the model has; what is beyond is cut off.
        count: how many texts, or as many as there are.

    Raises:
        QuantizationError: no such folder or config.
    """
    from knowcap.dataset.folder import has_config, num_rows, read_rows

    if not has_config(dataset_dir, "biographies"):
        raise QuantizationError(
            f"gptq is calibrated on biographies of training, but {dataset_dir} holds none; make them with "
            "`knowcap data`, or use method quanto"
        )
    rows = num_rows(dataset_dir)
    count = min(count, rows)
    wanted = {i * rows // count for i in range(count)}
    texts = [row.text for i, (row, _) in enumerate(read_rows(dataset_dir)) if i in wanted]
    start = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    by_length = defaultdict(list)
    for ids in tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]:
        ids = ([] if start is None else [start]) + ids
        by_length[min(len(ids), longest or len(ids))].append(ids[:longest])
    batches = [
        torch.tensor(of_one[first : first + _BATCH])
        for _, of_one in sorted(by_length.items())
        for first in range(0, len(of_one), _BATCH)
    ]
    return Calibration(tuple(batches), len(texts), sum(batch.numel() for batch in batches))
