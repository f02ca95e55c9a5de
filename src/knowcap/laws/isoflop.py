"""Chinchilla's approach 2: a parabola in log parameters through each IsoFLOP profile (Hoffmann et al. 2022, 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowcap.laws.fit import Fit, LawError, Options
from knowcap.laws.intervals import random_weights
from knowcap.laws.line import Optima, line_fit


_OPTIONS = Options()
_SIZES = 3  # different sizes that a parabola needs
BIAS = (
    "approach 2 is biased, a profile being no parabola: coefficients where sizes lie to one side of the "
    "optimum, exponents where that changes from budget to budget; chinchilla-parametric is not"
)


def fit_isoflop(
    num_parameters: np.ndarray,
    num_tokens: np.ndarray,
    loss: np.ndarray,
    budget: np.ndarray,
    options: Options = _OPTIONS,
) -> Fit:
    """The lowest point of each budget's parabola, and power laws of those in the budget.

    Tokens at the optimum are read off the profile's own line of log tokens in log parameters. The parabola is biased
    for unequal exponents: see `BIAS`, and `knowcap.laws.compare` for how large that is on a given grid.

    Args:
        num_parameters, num_tokens: of shape (n,).
        loss: nats per token, of shape (n,).
        budget: FLOPs of the profile that a run belongs to, of shape (n,).

    Raises:
        LawError: fewer than two budgets whose optimum lies between the sizes tried.
    """
    weights = np.ones((options.num_bootstraps + 1, len(loss)))
    profiles, warnings = [], []
    for number, value in enumerate(np.unique(budget)):
        rows = np.flatnonzero(budget == value)
        weights[1:, rows] = random_weights(len(rows), options.num_bootstraps, options.seed + number)
        profile = _profile(num_parameters[rows], num_tokens[rows], loss[rows], weights[:, rows])
        profiles.append({"budget": float(value), "num_points": len(rows)} | profile)
    kept = [profile for profile in profiles if profile["why_not"] is None]
    warnings = [f"budget {p['budget']:.3g}: {p['why_not']}; left out" for p in profiles if p["why_not"] is not None]
    if len(kept) < 2:
        found = "\n".join(f"  {w}" for w in warnings)
        raise LawError(
            f"chinchilla-isoflop: got {len(kept)} of {len(profiles)} budgets with an optimum, expected 2 or more; "
            f"add runs of other sizes at each budget{chr(10) * bool(found)}{found}"
        )
    flops = np.array([p["budget"] for p in kept])
    sizes, tokens = (np.stack([p["drawn"][i] for p in kept], 1) for i in (0, 1))
    drawn = np.stack([np.broadcast_to(np.log(flops), sizes.shape), sizes, tokens], 1)
    best = np.exp(drawn[0])
    told = [{k: v for k, v in p.items() if k not in ("drawn", "why_not")} for p in kept]
    points = sum(p["num_points"] for p in kept)
    optima = Optima(flops, best[1], best[2], drawn[1:])
    fit = line_fit("chinchilla-isoflop", optima, points, options, {"budgets": told})
    fit.warnings += warnings + [BIAS]
    if len(kept) == 2:
        fit.warnings.append("two budgets make a line whatever they are; add a third")
    return fit


def _profile(sizes: np.ndarray, tokens: np.ndarray, loss: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The optimum of one budget, its curve, and log size and log tokens there under each weighting (2, B); or why
    there is none.
    """
    x, y = np.log(sizes), np.log(tokens)
    if (number := len(np.unique(x))) < _SIZES:
        return {"why_not": f"{number} different sizes, expected {_SIZES} or more"}
    centre, width = x.mean(), x.std()
    z = (x - centre) / width
    basis = np.stack([np.ones_like(z), z, z * z], 1)
    normal = np.einsum("bn,nk,nl->bkl", weights, basis, basis)
    right = np.einsum("bn,nk,n->bk", weights, basis, loss)
    normal += 1e-12 * np.eye(3) * weights.sum(1)[:, None, None]
    start, slope, bend = np.linalg.solve(normal, right[..., None])[..., 0].T
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(bend > 0, -slope / (2 * bend), np.nan)
    if not bend[0] > 0:
        return {"why_not": "no minimum, its parabola opens downwards"}
    if not z.min() < best[0] < z.max():
        edge = "smallest" if best[0] <= z.min() else "largest"
        return {"why_not": f"no interior minimum, the loss is lowest at the {edge} size tried"}
    line = np.polyfit(z, y, 1) if np.ptp(z) else (0.0, y.mean())
    log_size, log_tokens = centre + width * best, np.polyval(line, best)
    return {
        "why_not": None,
        "num_parameters": float(np.exp(log_size[0])),
        "num_tokens": float(np.exp(log_tokens[0])),
        "loss": float(start[0] + slope[0] * best[0] / 2),
        "parabola": {
            "centre": float(centre),
            "width": float(width),
            "terms": [float(start[0]), float(slope[0]), float(bend[0])],
        },
        "sizes": sizes.tolist(),
        "losses": loss.tolist(),
        "drawn": np.stack([log_size, log_tokens]),
    }


def group_budgets(flops: np.ndarray, within: float = 0.1) -> tuple[np.ndarray, list[str]]:
    """A budget for each run where the table has none: runs whose FLOPs follow one another by less than `within` share
    one.

    Returns:
        The geometric mean of each group, of shape (n,), and what to tell about it.
    """
    order = np.argsort(flops)
    jumps = np.diff(np.log(flops[order])) > np.log1p(within)
    group = np.empty(len(flops), dtype=int)
    group[order] = np.concatenate([[0], np.cumsum(jumps)])
    means = np.array([np.exp(np.log(flops[group == g]).mean()) for g in range(group.max() + 1)])
    spread = max(float(np.ptp(np.log(flops[group == g]))) for g in range(group.max() + 1))
    text = f"no column budget: runs of about equal FLOPs make {len(means)} budgets"
    return means[group], [text + (f", the widest spanning a factor of {np.exp(spread):.2f}" if spread > 0.3 else "")]
