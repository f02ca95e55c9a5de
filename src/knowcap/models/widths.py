"""The widths of a configuration, scaled in proportion until it has a given number of parameters.

Depth, numbers of experts and the vocabulary stay. All widths keep their ratio to the hidden size, but for rounding and
for the MLPs' inner sizes (of a model without MLPs the sizes of its states), which then take up the difference, by at
most 40 %. Heads keep their number and become narrower or wider; if they would be narrower than 8, there are fewer of
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from knowcap.models.counts import EXPERTS
from knowcap.models.names import EXPERT_MULTIPLE, ModelError


TOLERANCE = 0.1  # of the wanted number of parameters
_EXACT = 0.01  # near enough to look no further
_NARROWEST_HEAD = 8
_MOST_STRETCH = 1.4
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_WIDTHS = re.compile(r"(_size|_dim|_rank|_width|d_ssm|d_state|d_head|d_ff|n_inner)$")
_NO_WIDTHS = re.compile(r"vocab|chunk|kernel|window|block|group|patch|position|image|conv|batch|context|seq|per_layer")
_HEADS = re.compile(r"(heads?|n_groups)$")
_OF_HEADS = re.compile(r"head_dim|d_head|head_size")
_INNER = re.compile(r"intermediate|n_inner|ffn_dim|d_ff|ffn_hidden")
_STATES = re.compile(r"state_size|d_state")


@dataclass(frozen=True)
class Fit:
    """The widths that were picked.

    Attributes:
        widths: by the configuration's keys.
        count: the number of parameters that they make.
    """

    widths: dict[str, int]
    count: int


Try = Callable[[dict[str, int]], Fit | None]  # the widths with their number of parameters, if they can be built


def fit_widths(values: Mapping[str, Any], count: Callable[[dict[str, int]], int], target: int) -> Fit:
    """The widths with the number of parameters nearest to the target, the ones most in proportion if several are near.

    Args:
        values: of the configuration, all of them.
        count: the number of parameters with changed widths. Raises ModelError for widths that do not fit together.
        target: the number of parameters.

    Raises:
        ModelError: the configuration has no hidden size, or nothing is within 10 % of the target.
    """
    tried: dict[tuple[tuple[str, int], ...], Fit | None] = {}

    def try_(widths: dict[str, int]) -> Fit | None:
        key = tuple(widths.items())
        if key not in tried:
            try:
                tried[key] = Fit(widths, count(widths))
            except ModelError:
                tried[key] = None
        return tried[key]

    merged, floor = 1, _Proportions.of(values).narrowest(values)
    while True:
        proportions = _Proportions.of(values, merged)
        found = _best(proportions, try_, target)
        alone = max(proportions.heads.values(), default=1) < 2
        if found is None or alone or proportions.narrowest(found.widths) >= min(_NARROWEST_HEAD, floor):
            break
        merged *= 2
    if found is None:
        raise ModelError(f"no width of this configuration can be built near {target:,} parameters")
    if abs(found.count / target - 1) > TOLERANCE:
        picked = ", ".join(f"{key} {value}" for key, value in found.widths.items())
        raise ModelError(
            f"no width makes about {target:,} parameters at this depth: the nearest has {found.count:,} ({picked}); "
            "change the number of layers, or give the sizes in model_config_overrides"
        )
    return found


def _best(proportions: _Proportions, try_: Try, target: int) -> Fit | None:
    """The best widths of these proportions; None if none can be built."""
    best: tuple[float, Fit] | None = None
    for steps in _near(proportions, try_, target):
        hidden = steps * proportions.unit
        for stretch in _stretches(proportions, hidden, try_, target):
            fit = try_(proportions.widths(hidden, stretch))
            if fit is not None:
                score = max(abs(math.log(fit.count / target)), _EXACT) + 0.05 * abs(math.log(stretch))
                best = (score, fit) if best is None or score < best[0] else best
    return None if best is None else best[1]


def _near(proportions: _Proportions, try_: Try, target: int) -> Iterator[int]:
    """The hidden sizes, in units, around the one where the number of parameters reaches the target."""

    def reaches(steps: int) -> bool:
        fit = try_(proportions.widths(steps * proportions.unit))
        return fit is not None and fit.count >= target

    low, high = 0, 1
    while high < 2**20 and not reaches(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    yield from range(max(1, high - 2), high + 2)


def _stretches(proportions: _Proportions, hidden: int, try_: Try, target: int) -> list[float]:
    """1, and the factor of the inner sizes that makes the target, or the nearest within the limits."""
    plain, wide = (try_(proportions.widths(hidden, stretch)) for stretch in (1.0, _MOST_STRETCH))
    if plain is None or wide is None or wide.count == plain.count:
        return [1.0]
    factor = 1 + (target - plain.count) * (_MOST_STRETCH - 1) / (wide.count - plain.count)
    return [1.0, min(max(factor, 1 / _MOST_STRETCH), _MOST_STRETCH)]


@dataclass(frozen=True)
class _Proportions:
    """What scales with the hidden size.

    Attributes:
        hidden: the key of the hidden size.
        unit: hidden sizes are its multiples, so that every head has an even width.
        sizes: all widths, by key.
        heads: numbers of heads, of the model as it is and after merging them.
        merged: how many heads became one.
        inner: the keys that are stretched.
        multiples: of the widths of experts and of the hidden size of a mixture.
    """

    hidden: str
    unit: int
    sizes: dict[str, int]
    heads: dict[str, int]
    merged: int
    inner: tuple[str, ...]
    multiple: int

    @classmethod
    def of(cls, values: Mapping[str, Any], merged: int = 1) -> _Proportions:
        numbers = {k: v for k, v in values.items() if type(v) is int and v > 0}
        hidden = next((key for key in _HIDDEN if key in numbers), None)
        if hidden is None:
            raise ModelError("the configuration has no hidden_size; give its sizes in model_config_overrides")
        sizes = {k: v for k, v in numbers.items() if k == hidden or (_WIDTHS.search(k) and not _NO_WIDTHS.search(k))}
        heads = {k: v for k, v in numbers.items() if _HEADS.search(k) and k not in sizes}
        inner = [k for k in sizes if _INNER.search(k)] or [k for k in sizes if _STATES.search(k)]
        multiple = EXPERT_MULTIPLE if any(numbers.get(key, 1) > 1 for key in EXPERTS) else 2
        fewer = {key: max(1, number // merged) for key, number in heads.items()}
        rotating = next((2 * fewer[key] for key in ("num_attention_heads", "n_head", "n_heads") if key in fewer), 1)
        unit = math.lcm(rotating, fewer.get("num_heads", 1), multiple)
        return cls(hidden, unit, sizes, fewer, merged, tuple(inner), multiple)

    def narrowest(self, widths: Mapping[str, Any]) -> float:
        """The width of the narrowest head."""
        given = [widths[key] for key in self.sizes if _OF_HEADS.search(key)]
        return min(given, default=widths[self.hidden] / max(self.heads.values(), default=1))

    def widths(self, hidden: int, stretch: float = 1.0) -> dict[str, int]:
        """All widths and numbers of heads at a hidden size, inner sizes stretched."""
        scale, found = hidden / self.sizes[self.hidden], {self.hidden: hidden}
        for key, size in self.sizes.items():
            if key != self.hidden:
                by = scale * (self.merged if _OF_HEADS.search(key) else 1) * (stretch if key in self.inner else 1)
                multiple = self.multiple if key in self.inner and self.multiple > 2 and size > 1 else 2
                found[key] = max(multiple, multiple * round(size * by / multiple))
        return found | (self.heads if self.merged > 1 else {})
