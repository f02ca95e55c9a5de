"""Plots of fitted laws as PNG, PDF and SVG: points and law above, residuals below; matplotlib is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowcap.laws.compare import Comparison
from knowcap.laws.fit import Fit
from knowcap.laws.law import optimum
from knowcap.report.plots import COLORS, GREY, save_plot


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "num_parameters": "parameters",
    "num_tokens": "tokens",
    "flops": "compute (FLOPs)",
    "min_steps": "steps (S_min)",
    "batch_tokens": "tokens in a batch",
    "loss": "loss (nats per token)",
    "exposures": "exposures",
    "unique_tokens": "different tokens",
    "num_active_parameters": "active parameters",
    "step": "steps",
}
# By law: what lies across, what parts the lines, and what goes up.
_AXES = {
    "capacity": ("num_parameters", "max_knowledge_bits", "knowledge learned (bits)"),
    "exposures": ("exposures", "num_parameters", "knowledge learned (bits)"),
    "factors": ("num_parameters", "max_knowledge_bits", "knowledge learned (bits)"),
    "kaplan-n": ("num_parameters", None, "loss (nats per token)"),
    "kaplan-d": ("num_tokens", None, "loss (nats per token)"),
    "kaplan-c": ("flops", None, "loss (nats per token)"),
    "kaplan-nd": ("num_tokens", "num_parameters", "loss (nats per token)"),
    "kaplan-ns": ("min_steps", "num_parameters", "loss (nats per token)"),
    "chinchilla-parametric": ("num_tokens", "num_parameters", "loss (nats per token)"),
    "data-constrained": ("num_tokens", "unique_tokens", "loss (nats per token)"),
    "mixtures": ("num_tokens", "num_active_parameters", "loss (nats per token)"),
    "accuracy": ("loss", None, "accuracy"),
    "step-law": ("num_tokens", "num_parameters", "best learning rate"),
    "multi-power": ("step", None, "loss (nats per token)"),
    "chinchilla-isoflop": ("flops", None, "best number of parameters"),
    "chinchilla-envelope": ("flops", None, "best number of parameters"),
}
_LINES = 7  # at most, each with its colour
_ABOUT_EQUAL = 0.15  # in the logarithm: how near to a line's value its points are


def plot_fit(fit: Fit, path: str | Path) -> Path:
    """Points with the fitted law, and residuals beneath.

    Args:
        fit: of any law.
        path: of the PNG, PDF or SVG file; a PNG file has the others beside it.
    """
    profiles = fit.law == "chinchilla-isoflop"
    figure, (top, bottom) = _figure((7.6, 6.4), profiles)
    if fit.law == "critical-batch":
        _critical(top, fit)
    elif fit.law == "multi-power":
        _schedules(top, fit)
    elif profiles:
        _profiles(top, fit)
    else:
        _points(top, fit)
    _residuals(bottom, fit) if not profiles else _points(bottom, fit)
    constants = ", ".join(f"{name} {value:.4g}" for name, value in fit.constants.items() if "coefficient" not in name)
    figure.suptitle(f"{fit.law}: {constants}", fontsize=10)
    if not profiles:
        bottom.set_xlim(top.get_xlim())
    return save_plot(figure, path)


def plot_comparison(comparison: Comparison, path: str | Path) -> Path:
    """The best number of parameters for each compute by every approach, and its exponent with its interval.

    Args:
        comparison: of `compare_approaches`.
        path: of the PNG, PDF or SVG file; a PNG file has the others beside it.
    """
    figure, (axes, right) = _figure((7.6, 6.4), True)
    flops = _span_of_flops(comparison)
    grid = np.geomspace(*flops, 100)
    for color, (law, fit) in zip(COLORS, comparison.fits.items(), strict=False):
        axes.plot(grid, [optimum(fit.law, fit.constants, c).num_parameters for c in grid], color=color, label=law)
        if law != "chinchilla-parametric":
            axes.plot(fit.points["flops"], fit.points["observed"], "o", color=color, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["flops"], ylabel="best number of parameters")
    axes.set_title("Compute-optimal size, by approach")
    axes.legend(frameon=False, fontsize=8.5)
    names = list(comparison.fits)
    for i, law in enumerate(names):
        value, (low, high) = comparison.exponent(law, "exponent_parameters")
        right.plot(value, i, "o", color=COLORS[i])
        if low is not None and high is not None:
            right.plot([low, high], [i, i], color=COLORS[i], linewidth=2)
    right.set_yticks(range(len(names)), names)
    right.set_ylim(len(names) - 0.5, -0.5)
    right.set_xlabel(
        f"exponent of parameters, {100 * next(iter(comparison.fits.values())).confidence_level:g} % intervals"
    )
    return save_plot(figure, path)


def _span_of_flops(comparison: Comparison) -> tuple[float, float]:
    spans = []
    for fit in comparison.fits.values():
        points = fit.points
        flops = points["flops"] if "flops" in points else 6 * points["num_parameters"] * points["num_tokens"]
        spans += [float(flops.min()), float(flops.max())]
    spans += list(comparison.allocations)
    return min(spans) / 1.5, max(spans) * 1.5


def _figure(size: tuple[float, float], even: bool) -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1.4, 1) if even else (3, 1))
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#EBEBEB", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, (top, bottom)


def _groups(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number of a line for each point, and the lines' values. Of many values some are chosen, evenly in the
    logarithm, and points near none of them get -1."""
    logs = np.log(column)
    values = np.unique(logs.round(6))
    if len(values) > _LINES:
        values = np.linspace(values[0], values[-1], _LINES)
    distance = np.abs(logs[:, None] - values)
    group = np.where(distance.min(1) < _ABOUT_EQUAL, distance.argmin(1), -1)
    return group, np.exp(values)


def _points(axes: Axes, fit: Fit) -> None:
    """Points and the law's line for each value of the column that parts them."""
    across, by, upward = _AXES[fit.kind]
    x, y = fit.points[across], fit.points["observed"]
    group, values = _groups(fit.points[by]) if by else (np.zeros(len(x), dtype=int), np.array([1.0]))
    if (rest := group < 0).any():
        axes.plot(x[rest], y[rest], ".", color="#BBBBBB", markersize=4, label="other points")
    grid = np.geomspace(x.min() / 1.3, x.max() * 1.3, 200)
    for i, value in enumerate(values):
        color = COLORS[i % len(COLORS)]
        rows = group == i
        for columns in _lines(fit, across, by, rows, grid, value) if rows.any() else ():
            axes.plot(grid, fit.predict(columns), color=color, linewidth=1.3)
        name = f"{_short(value)} {'bits in the data' if by == 'max_knowledge_bits' else _LABELS.get(by or '', '')}"
        if rows.any():
            axes.plot(x[rows], y[rows], "o", color=color, markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS[across], ylabel=upward)
    _plain_ticks(axes)
    if by:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _lines(
    fit: Fit, across: str, by: str | None, rows: np.ndarray, grid: np.ndarray, value: float
) -> list[dict[str, np.ndarray]]:
    """The columns along a line of the law: more than one line for several values of max_knowledge_bits."""
    columns = {across: grid} | ({by: np.full_like(grid, value)} if by else {})
    if fit.law == "factors":
        names = [name for name in ("architecture", "precision", "exposures") if name in fit.points]
        kinds = {tuple(values) for values in zip(*(fit.points[name][rows].tolist() for name in names), strict=True)}
        return [columns | {n: np.full(len(grid), v) for n, v in zip(names, kind, strict=True)} for kind in kinds]
    if fit.law == "mixtures":
        sizes = np.unique(fit.points["num_parameters"][rows])
        return [columns | {"num_parameters": np.full_like(grid, n)} for n in sizes]
    if fit.law == "data-constrained":
        sizes = np.unique(fit.points["num_parameters"][rows])
        return [columns | {"num_parameters": np.full_like(grid, n)} for n in sizes]
    if fit.law != "exposures":
        return [columns]
    return [
        columns | {"max_knowledge_bits": np.full_like(grid, m)}
        for m in np.unique(fit.points["max_knowledge_bits"][rows])
    ]


def _critical(axes: Axes, fit: Fit) -> None:
    """B_crit against loss; with curves, steps over batch sizes have their place in the residuals."""
    loss = fit.points["loss"]
    grid = np.geomspace(loss.min() / 1.05, loss.max() * 1.05, 100)
    axes.plot(grid, fit.predict({"loss": grid}), color=COLORS[0], label="B_crit(L)")
    if "batch_tokens" in fit.points:
        axes.plot(loss, fit.points["batch_tokens"], "o", color=GREY, markersize=3, label="batches of the runs")
    else:
        axes.plot(loss, fit.points["observed"], "o", color=COLORS[0], markersize=4, label="measured")
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["loss"], ylabel="critical batch (tokens)")
    _plain_ticks(axes)
    axes.legend(frameon=False, fontsize=8.5)


def _schedules(axes: Axes, fit: Fit) -> None:
    """Each run's losses and the law along its schedule."""
    steps, runs = fit.points["step"], fit.points["run"]
    for i, name in enumerate(np.unique(runs)):
        rows, color = runs == name, COLORS[i % len(COLORS)]
        axes.plot(steps[rows], fit.points["observed"][rows], ".", color=color, markersize=4, label=str(name))
        grid = np.linspace(steps[rows].min(), steps[rows].max(), 200)
        axes.plot(grid, np.interp(grid, steps[rows], fit.points["fitted"][rows]), color=color, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel=_LABELS["step"], ylabel=_LABELS["loss"])
    _plain_ticks(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _profiles(axes: Axes, fit: Fit) -> None:
    """Each budget's runs, parabola and optimum."""
    budgets = fit.extra["budgets"]
    for i, budget in enumerate(budgets):
        color = COLORS[i % len(COLORS)]
        shape, sizes = budget["parabola"], np.array(budget["sizes"])
        low, high = np.log(shape["sizes"])
        grid = np.linspace(low, high, 100)
        z = (grid - shape["centre"]) / shape["width"]
        axes.plot(np.exp(grid), np.polynomial.polynomial.polyval(z, shape["terms"]), color=color, linewidth=1.2)
        axes.plot(sizes, budget["losses"], ".", color=color, markersize=5, label=f"{budget['budget']:.2g} FLOPs")
        axes.plot(budget["num_parameters"], budget["loss"], "*", color=color, markersize=10, mec="black", mew=0.5)
    axes.set(xscale="log", xlabel=_LABELS["num_parameters"], ylabel=_LABELS["loss"])
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _residuals(axes: Axes, fit: Fit) -> None:
    """log(observed / fitted) in percent against what lies across, with the line of zero."""
    across = _AXES[fit.kind][0] if fit.kind in _AXES else "loss"
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.plot(fit.points[across], 100 * fit.residuals, "o", color=GREY, markersize=3)
    most = max(float(np.abs(100 * fit.residuals).max()) * 1.15, 1e-3)
    axes.set(xscale="log", xlabel=_LABELS[across], ylabel="residual (%)", ylim=(-most, most))
    if across == "loss":
        _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    """Ticks such as 2, 3, 5 where an axis has less than two decades, where powers of ten alone would leave it bare."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        if low <= 0 or high / low > 50 or axis.get_scale() != "log":
            continue
        subs: Any = (
            (1.0, 2.0, 3.0, 5.0, 7.0)
            if high / low > 3
            else tuple(np.arange(1.0, 10.0, 0.5 if high / low > 1.6 else 0.1))
        )
        axis.set_major_locator(LogLocator(subs=subs, numticks=30))
        axis.set_major_formatter(StrMethodFormatter("{x:.4g}"))
        axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """1.2M, 70B."""
    value = float(f"{value:.3g}")
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"
