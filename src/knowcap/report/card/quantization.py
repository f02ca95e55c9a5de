"""What a quantized model's card says: how its weights were quantized, and which knowledge that cost."""

from __future__ import annotations

from typing import Any

from knowcap.report.card.results import Sources, precision


def method(sources: Sources) -> str:
    """quanto or gptq; an older folder does not say."""
    return (sources.capacity["quantization"] or {}).get("method", "quanto")


def summary(sources: Sources) -> str:
    """How many of the parameters were quantized and which were not, after a blank; nothing for a full model."""
    if not sources.quantized:
        return ""
    capacity, quantization = sources.capacity, sources.capacity["quantization"]
    share = capacity["quantized_fraction_all"] or 0
    embedding = 1 - capacity["num_parameters_non_embedding"] / capacity["num_parameters"]
    left = quantization.get("excluded") or []
    named = ", ".join(f"`{name}`" for name in left[:8]) + (f" and {len(left) - 8} more" if len(left) > 8 else "")
    dominates = "Blocks dominate" if embedding < 0.5 else "Embeddings dominate"
    return (
        f" Quantized here are {100 * share:.1f} % of all parameters. {dominates}: embeddings are "
        f"{100 * embedding:.1f} % of them, {'quantized too' if quantization.get('embeddings') else 'not quantized'}. "
        + (f"Layers in full precision: {named}." if left else "No layer stays in full precision.")
    )


def limit(sources: Sources) -> str:
    """How the weights were quantized, in a sentence or two."""
    quantization = sources.capacity["quantization"]
    group = quantization.get("group_size")
    size = "differs from layer to layer" if isinstance(group, dict) else f"is {group or 'a whole row'}"
    symmetric = quantization.get("symmetric")
    steps = "" if symmetric is None else f", steps {'even around zero' if symmetric else 'from least to greatest'}"
    exclude = quantization.get("exclude")
    left = f" Left out by wish: {', '.join(f'`{pattern}`' for pattern in exclude)}." if exclude else ""
    return f"Quantized after training, weights only, {_how(quantization)}; a group {size}{steps}.{left}"


def _how(quantization: dict[str, Any]) -> str:
    calibration = quantization.get("calibration")
    if calibration is None:
        return "by quanto: to the nearest step, without calibration (the paper used GPTQ)"
    return (
        f"by GPTQ, the paper's method, calibrated on {calibration['texts']:,} biographies of training "
        f"({calibration['tokens']:,} tokens)"
    )


def loss_rows(sources: Sources) -> list[list[str]]:
    """A row an attribute: what the original knew of it, what the copy knows, and its share of all that was lost.

    None where the original was not measured, or otherwise.
    """
    losses = _losses(sources)
    total = sum(before - after for before, after in losses.values())
    return [
        [
            name,
            f"{before:.3f}",
            f"{after:.3f}",
            f"{before - after:.3f}",
            f"{100 * (before - after) / before:.1f} %" if before > 0 else "",
            f"{100 * (before - after) / total:.1f} %" if total > 0 else "",
        ]
        for name, (before, after) in losses.items()
    ]


def loss_note(sources: Sources) -> str:
    """What was lost in all, and of which attribute the most."""
    losses = {name: before - after for name, (before, after) in _losses(sources).items()}
    if not losses:
        return ""
    known, total = sum(before for before, _ in _losses(sources).values()), sum(losses.values())
    if total <= 0:
        return f"In all nothing was lost: {-total:.3f} bits an entity more than the {known:.3f} before."
    most = max(losses, key=losses.__getitem__)
    of_all = f", {100 * total / known:.1f} % of what was known" if known > 0 else ""
    return (
        f"Against {sources.original['precision']}, {precision(sources.capacity)} lost {total:.3f} bits an "
        f"entity{of_all}, most of {most.replace('_', ' ')}: {losses[most]:.3f} bits."
    )


def _losses(sources: Sources) -> dict[str, tuple[float, float]]:
    """Bits an entity of each attribute, of the original and of its copy; {} where they cannot be compared."""
    original, copy = sources.original, sources.capacity
    alike = ("num_entities", "scoring", "context", "renderings", "dataset")
    if not sources.quantized or not original or any(original.get(key) != copy.get(key) for key in alike):
        return {}
    pairs = {
        name: (original["attributes"].get(name, {}).get("bits_per_entity"), row["bits_per_entity"])
        for name, row in copy["attributes"].items()
    }
    return {name: pair for name, pair in pairs.items() if None not in pair}
