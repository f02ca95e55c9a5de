"""How far a measurement in half precision is from one in float32: a sample of its texts, scored in both."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from knowcap.models.loading import LoadOptions, load_model


if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE_TEXTS = 64  # the first ones
_ROOM = 1.2  # memory for a float32 copy, per byte of its weights

logger = logging.getLogger("knowcap")  # whose lines commands print


def float32_difference(
    model: PreTrainedModel,
    model_dir: Path | None,
    loading: LoadOptions,
    score: Callable[[PreTrainedModel], pa.Table],
) -> dict[str, Any] | None:
    """The bits of a fact of the sample in the model's precision, less those of the same folder in float32.

    Args:
        model: as it was measured.
        model_dir: its folder, from which it is loaded in float32 too; None for a model in memory.
        loading: how it was loaded.
        score: scores the sample by a model.

    Returns:
        `facts`, their number; `bits_per_fact`, the mean difference in bits, and `largest`, the largest in size. None
        for a model in float32, in memory, or divided among devices, and where a float32 copy does not fit beside it.
    """
    parameters = list(model.parameters())
    if model_dir is None or not any(p.dtype in (torch.bfloat16, torch.float16) for p in parameters):
        return None
    device = parameters[0].device
    needed = _ROOM * 4 * sum(p.numel() for p in parameters)
    if loading.device_map is not None or needed > _free_memory(device):
        logger.info("not compared with float32, in which the model does not fit beside itself on one device")
        return None
    exact: Any = load_model(model_dir)
    half, full = (score(one)["nll"].to_numpy() for one in (model, exact.to(device)))
    bits = (full - half) / math.log(2)
    largest = float(bits[np.argmax(np.abs(bits))]) if bits.size else 0.0
    return {"facts": int(bits.size), "bits_per_fact": float(bits.mean()) if bits.size else 0.0, "largest": largest}


def _free_memory(device: torch.device) -> int:
    """The bytes that are free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
