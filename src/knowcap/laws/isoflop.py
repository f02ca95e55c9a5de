"""Chinchilla's approach 2: IsoFLOP profiles, the losses of several sizes at one budget (Hoffmann et al. 2022, 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from knowcap.laws.chinchilla import Optima, line_fit
from knowcap.laws.fit import Fit, Options
from knowcap.laws.law import LawError


_OPTIONS = Options()
_SIZES = 3  # different sizes that a parabola needs
_FACTORS = (3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, np.inf)  # windows about the best size, as factors of it
_HOLDS = 0.05  # p of the cubic term, above which a parabola holds


@dataclass(frozen=True)
class _Profile:
    """The runs of one budget.

    Attributes:
        budget: FLOPs.
        rows: of the table.
        x, y: log size and log tokens.
        loss: nats per token.
    """

    budget: float
    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    loss: np.ndarray

    def lowest(self) -> tuple[float, bool]:
        """The log size with the least (mean) loss, and whether others lie on both sides of it."""
        sizes, member = np.unique(self.x, return_inverse=True)
        best = int(np.argmin(np.bincount(member.reshape(-1), self.loss) / np.bincount(member.reshape(-1))))
        return float(sizes[best]), 0 < best < len(sizes) - 1

    def near(self, centre: float, factor: float) -> np.ndarray:
        """Which runs lie within a factor of a size; the three sizes nearest to it always do."""
        distance = np.abs(self.x - centre)
        least = np.unique(np.abs(np.unique(self.x) - centre))[:_SIZES][-1]
        return distance <= max(np.log(factor), least) + 1e-9

    def bottom(self, chosen: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """The lowest log size of each parabola through chosen runs, NaN if it opens downwards.

        Losses of shape (B, n) → (B,).
        """
        z, centre, width = _standard(self.x[chosen])
        terms = loss[:, chosen] @ np.linalg.pinv(np.stack([np.ones_like(z), z, z * z], 1)).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(terms[:, 2] > 0, centre - width * terms[:, 1] / (2 * terms[:, 2]), np.nan)

    def window(self, factor: float) -> tuple[np.ndarray, float]:
        """The runs about the bottom of their own parabola, and that bottom.

        Where the parabola has none among the sizes tried, it is that of the least loss and its two neighbours; NaN if
        the least loss lies at an edge.
        """
        best, inside = self.lowest()
        centre, found = best, None
        for _ in range(2):
            chosen = self.near(centre, factor)
            centre = float(self.bottom(chosen, self.loss[None])[0])
            if not self.x.min() < centre < self.x.max():
                break
            found = chosen, centre
        if found is None and inside:
            sizes = np.unique(self.x)
            at = int(np.searchsorted(sizes, best))
            chosen = (self.x >= sizes[at - 1]) & (self.x <= sizes[at + 1])
            return chosen, float(self.bottom(chosen, self.loss[None])[0])
        return found or (self.near(best, factor), np.nan)


def _standard(x: np.ndarray) -> tuple[np.ndarray, float, float]:
    width = float(x.std()) or 1.0
    return (x - x.mean()) / width, float(x.mean()), width


def _squares(x: np.ndarray, loss: np.ndarray, degree: int) -> float:
    """What a polynomial leaves of the losses, squared and summed."""
    z, _, _ = _standard(x)
    basis = np.stack([z**k for k in range(degree + 1)], 1)
    return float(((basis @ np.linalg.lstsq(basis, loss, rcond=None)[0] - loss) ** 2).sum())


def parabola_factor(profiles: list[_Profile]) -> float:
    """The widest window in which the profiles are parabolas, as a factor of the best size.

    A profile is steeper on one side of its optimum, the more the farther from it, and a parabola through all of it has
    its bottom elsewhere. Windows grow from a factor of 3 as long as cubic terms, one a budget, do not improve the fit
    (F test over all budgets, p of 0.05): noise widens them, since a bias below it does no harm.
    """
    chosen = _FACTORS[0]
    for factor in _FACTORS:
        without = within = 0.0
        terms = freedom = 0
        for profile in profiles:
            near = profile.near(profile.lowest()[0], factor)
            x, loss = profile.x[near], profile.loss[near]
            if len(np.unique(x)) < _SIZES + 2:
                continue
            without, within = without + _squares(x, loss, 2), within + _squares(x, loss, 3)
            terms, freedom = terms + 1, freedom + len(x) - 4
        if terms < 2:  # too few sizes to tell
            continue
        ratio = (without - within) / terms / max(within / freedom, 1e-300)
        if scipy.special.fdtrc(terms, freedom, ratio) < _HOLDS:
            break
        chosen = factor
    return chosen


def fit_isoflop(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    budget: np.ndarray,
    options: Options = _OPTIONS,
    *,
    window: float | None = None,
) -> Fit:
    """The lowest point of each budget's parabola, and power laws of those in the budget.

    Parabolas are fitted where profiles are parabolas, see `parabola_factor` (tests/benchmarks/isoflop.py has the error
    of other choices). Tokens at the optimum are read off the profile's own line of log tokens in log parameters.

    Args:
        num_parameters, num_tokens: of shape (n,).
        loss: nats per token, of shape (n,).
        budget: FLOPs of the profile that a run belongs to, of shape (n,).
        window: factor of the best size within which parabolas are fitted; chosen if absent.

    Raises:
        LawError: fewer than two budgets whose least loss lies between the sizes tried.
    """
    rows = [np.flatnonzero(budget == value) for value in np.unique(budget)]
    x, y = np.log(num_parameters), np.log(num_tokens)
    profiles = [_Profile(float(budget[r[0]]), r, x[r], y[r], loss[r]) for r in rows]
    enough = [p for p in profiles if len(np.unique(p.x)) >= _SIZES]
    factor = parabola_factor(enough) if window is None else window
    found = {p.budget: p.window(factor) for p in enough}
    kept = [p for p in enough if np.isfinite(found[p.budget][1])]
    warnings = [
        f"budget {p.budget:.3g}: {_why_not(p)}; left out" for p in profiles if p.budget not in {k.budget for k in kept}
    ]
    if len(kept) < 2:
        text = "\n".join(f"  {w}" for w in warnings)
        raise LawError(
            f"chinchilla-isoflop: got {len(kept)} of {len(profiles)} budgets with an optimum, expected 2 or more; "
            f"add runs of other sizes at each budget{chr(10) * bool(text)}{text}"
        )
    noise = _noise(kept, [found[p.budget][0] for p in kept], len(loss), options)
    sizes = np.stack([_drawn(p, *found[p.budget], noise) for p in kept], 1)
    tokens = np.stack([np.polyval(_tokens(p), sizes[:, i]) for i, p in enumerate(kept)], 1)
    flops = np.array([p.budget for p in kept])
    drawn = np.stack([np.broadcast_to(np.log(flops), sizes.shape), sizes, tokens], 1)
    shown = [_shown(p, *found[p.budget]) for p in kept]
    optima = Optima(flops, np.exp(sizes[0]), np.exp(tokens[0]), drawn[1:])
    points = sum(p["num_points"] for p in shown)
    extra = {"budgets": shown, "window": factor}
    fit = line_fit("chinchilla-isoflop", optima, points, options, extra, options.groups)
    where = "all sizes" if np.isinf(factor) else f"sizes within a factor of {factor:g} of each budget's best"
    fit.notes.append(f"parabolas through {where}: there a cubic term does not improve them")
    fit.warnings += warnings + _edges(kept, sizes[0])
    if len(kept) == 2:
        fit.warnings.append("two budgets always lie on a line; add a third")
    return fit


def _why_not(profile: _Profile) -> str:
    if (number := len(np.unique(profile.x))) < _SIZES:
        return f"{number} different sizes, expected {_SIZES} or more"
    edge = "smallest" if profile.lowest()[0] <= profile.x.min() else "largest"
    return f"no interior minimum, the loss is lowest at the {edge} size tried"


def _noise(kept: list[_Profile], windows: list[np.ndarray], number: int, options: Options) -> np.ndarray:
    """Losses' noise of the bootstrap, of shape (B, number): normal, as large as parabolas leave; shared in groups."""
    squares = sum(_squares(p.x[w], p.loss[w], 2) for p, w in zip(kept, windows, strict=True))
    freedom = sum(int(w.sum()) - _SIZES for w in windows)
    size = np.sqrt(squares / freedom) if freedom else np.nan
    random = np.random.Generator(np.random.Philox(options.seed))
    if options.groups is None:
        return size * random.standard_normal((options.num_bootstraps, number))
    member = np.unique(options.groups, return_inverse=True)[1].reshape(-1)
    return size * random.standard_normal((options.num_bootstraps, int(member.max()) + 1))[:, member]


def _drawn(profile: _Profile, chosen: np.ndarray, bottom: float, noise: np.ndarray) -> np.ndarray:
    """The optimal log size, then those under each noise, of shape (1 + B,)."""
    return np.concatenate([[bottom], profile.bottom(chosen, profile.loss + noise[:, profile.rows])])


def _tokens(profile: _Profile) -> np.ndarray:
    """Slope and start of log tokens in log size."""
    return np.polyfit(profile.x, profile.y, 1)


def _shown(profile: _Profile, chosen: np.ndarray, bottom: float) -> dict[str, Any]:
    """A budget's optimum and curve for the JSON and the plot."""
    z, centre, width = _standard(profile.x[chosen])
    terms = np.linalg.pinv(np.stack([np.ones_like(z), z, z * z], 1)) @ profile.loss[chosen]
    return {
        "budget": profile.budget,
        "num_points": int(chosen.sum()),
        "num_parameters": float(np.exp(bottom)),
        "num_tokens": float(np.exp(np.polyval(_tokens(profile), bottom))),
        "loss": float(np.polyval(terms[::-1], (bottom - centre) / width)),
        "parabola": {
            "centre": centre,
            "width": width,
            "terms": [float(t) for t in terms],
            "sizes": [float(np.exp(profile.x[chosen].min())), float(np.exp(profile.x[chosen].max()))],
        },
        "sizes": np.exp(profile.x).tolist(),
        "losses": profile.loss.tolist(),
    }


def _edges(kept: list[_Profile], best: np.ndarray) -> list[str]:
    """A warning about optima beyond the second size from an end, where a window has one side."""
    sizes = [np.unique(p.x) for p in kept]
    ends = [("smallest", [b < s[1] for s, b in zip(sizes, best, strict=True)])]
    ends.append(("largest", [b > s[-2] for s, b in zip(sizes, best, strict=True)]))
    return [
        f"{sum(near)} of {len(kept)} budgets have their optimum beside the {end} size tried, where a parabola is "
        f"one-sided; add {'smaller' if end == 'smallest' else 'larger'} models there"
        for end, near in ends
        if any(near)
    ]


def group_budgets(flops: np.ndarray, within: float = 0.1) -> tuple[np.ndarray, list[str]]:
    """A budget for each run where the table has none: runs whose FLOPs follow one another by less than `within` share
    one.

    Returns:
        The geometric mean of each group, of shape (n,), and a note about it.
    """
    order = np.argsort(flops)
    jumps = np.diff(np.log(flops[order])) > np.log1p(within)
    group = np.empty(len(flops), dtype=int)
    group[order] = np.concatenate([[0], np.cumsum(jumps)])
    means = np.array([np.exp(np.log(flops[group == g]).mean()) for g in range(group.max() + 1)])
    spread = max(float(np.ptp(np.log(flops[group == g]))) for g in range(group.max() + 1))
    text = f"no column budget: runs of about equal FLOPs make {len(means)} budgets"
    return means[group], [text + (f", the widest spanning a factor of {np.exp(spread):.2f}" if spread > 0.3 else "")]
