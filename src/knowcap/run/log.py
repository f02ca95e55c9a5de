"""The line that the log has about a stage of a run: what it made, where, and in how much time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knowcap import progress
from knowcap.files import QUANTIZATION_FILE, TRAINING_FILE
from knowcap.report.duration import duration
from knowcap.sealed import CAPACITY_NEEDS, QUANTIZATION_NEEDS, TRAINING_NEEDS, read_result


logger = logging.getLogger(__name__)


def logged(name: str, output: Path, work: Callable[[], Any], describe: Callable[[Path], str], kept: bool) -> Path:
    """Runs a stage, which only checks an output that is kept, and logs one line about it."""
    began = time.perf_counter()
    progress.begin(name)
    work()
    how_long = "finished before, kept" if kept else duration(time.perf_counter() - began)
    logger.info("[%s] %s → %s (%s)", name, describe(output), output, how_long)
    return output


def describe_training(model_dir: Path) -> str:
    """A trained model: its size, steps, tokens and final loss."""
    t = read_result(model_dir / TRAINING_FILE, (*TRAINING_NEEDS, "num_parameters"))
    loss = "" if t["final_loss"] is None else f", loss {t['final_loss']:.4f} nats per token"
    model = f"{t['model_name']}, {t['num_parameters']:,} parameters"
    return f"{model}, {t['num_steps']:,} steps, {t['num_tokens']:,} tokens{loss}"


def describe_scores(output: Path) -> str:
    """The number of facts that were scored."""
    from knowcap.sealed.parquet import rows_in

    return f"{rows_in(output):,} facts"


def describe_capacity(output: Path) -> str:
    """Bits per parameter, their interval and maximum."""
    c = read_result(output, CAPACITY_NEEDS)
    low, high = c["confidence_interval"]
    interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"  # one entity has none
    best, label = c["max_bits_per_parameter"], "" if c.get("bound", True) else ", not a bound"
    return f"{c['bits_per_parameter']:.4f} bits per parameter{interval}, at most {best:.4f}{label}"


def describe_quantization(folder: Path) -> str:
    """Bits, method and coverage of a quantized copy."""
    q = read_result(folder / QUANTIZATION_FILE, QUANTIZATION_NEEDS)
    return f"int{q['bits']} by {q['method']}, {q['quantized_fraction']:.0%} of the block weights"
