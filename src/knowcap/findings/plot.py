"""The picture of findings: bits against parameters of the cells that they rest on, beside the paper's peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from knowcap.files import FileError
from knowcap.findings.verdicts import Verdict
from knowcap.report.plots import COLORS, GREY, MARKERS, save_plot


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The peak of R at 1000 exposures for each N of Figure 1(a), Part 3.3: N, layers, heads and R. The coordinates of the
# figure's marks were read by a third party; they were not checked against the figure.
PAPER_PEAKS = (
    (50_000, 3, 2, 1.93),
    (100_000, 6, 2, 2.16),
    (200_000, 5, 3, 2.35),
    (500_000, 6, 4, 2.72),
    (1_000_000, 6, 6, 2.71),
    (2_000_000, 16, 8, 2.01),
    (5_000_000, 6, 20, 2.05),
    (10_000_000, 20, 16, 1.95),
)
_VOCABULARY = 3275  # of the paper's bioS


def paper_parameters(layers: int, heads: int) -> int:
    """Parameters of the paper's GPT2 with rotary embedding: l (12 d² + 13 d) + 2 d + 3275 d, with d = 64 h."""
    d = 64 * heads
    return layers * (12 * d * d + 13 * d) + 2 * d + _VOCABULARY * d


def plot_findings(verdicts: Sequence[Verdict], path: Path) -> Path:
    """Draws the cells of findings, one mark for each seed, and the paper's peaks in a panel of their own.

    Args:
        verdicts: from `judge`.
        path: of the picture; of a PNG file SVG and PDF stand beside it.

    Raises:
        FileError: no cell has a result yet.
    """
    rows = list({name: row for verdict in verdicts for name, row in _cells(verdict).items()}.values())
    if not rows:
        raise FileError("there is nothing to plot: no cell has a result; collect results first")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    ours, paper = figure.subplots(1, 2, width_ratios=(1.25, 1))
    sizes = sorted({row["num_entities"] for row in rows})
    for number, size in enumerate(sizes):
        same = [row for row in rows if row["num_entities"] == size]
        _marks(ours, same, f"N = {size:,}", COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)])
    peaks = [(n, paper_parameters(layers, heads), r) for n, layers, heads, r in PAPER_PEAKS]
    points = [parameters for _, parameters, _ in peaks], [parameters * r for _, parameters, r in peaks]
    paper.plot(*points, "D", color=GREY, markersize=6, mfc="white", mew=1.4, linestyle="none", zorder=3)
    for n, parameters, r in peaks:
        label = f"{n // 1000}K" if n < 1_000_000 else f"{n // 1_000_000}M"
        at = (parameters, parameters * r)
        paper.annotate(label, at, (-8, 5), textcoords="offset points", ha="right", fontsize=8, color="#444444")
    seeds = len({row["seed"] for row in rows})
    _dress(
        ours, f"Measured here: {len(rows)} models, {seeds} seeds", [row["num_parameters"] for row in rows], _bits(rows)
    )
    _dress(paper, "The paper's peaks by N (Figure 1a,\ndigitized by a third party)", *points)
    ours.set_ylabel("knowledge learned (bits)")
    ours.plot([], [], ":", color=GREY, linewidth=1.5, label="all facts (R_max)")
    handles, labels = ours.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=8.5)
    return save_plot(figure, path)


def _cells(verdict: Verdict) -> dict[tuple[str, str], Mapping[str, Any]]:
    """A finding's own cells, and those of other sweeps that decide it: a row of results by sweep and name."""
    own = {sweep.name for sweep in verdict.finding.sweeps[:1]}
    used = {name for statement in verdict.statements for name in statement.used}
    return {name: found.row for name, found in verdict.results.items() if name[0] in own or name in used}


def _marks(axes: Axes, rows: Sequence[Mapping[str, Any]], label: str, color: str, marker: str) -> None:
    """The cells of one N, and all that could be learned there, as a dotted line."""
    shown = [row for row in rows if row["knowledge_bits"] > 0]  # others have no place on a logarithmic axis
    x, y = [row["num_parameters"] for row in shown], [row["knowledge_bits"] for row in shown]
    axes.plot(x, y, marker, color=color, markersize=5, alpha=0.75, linestyle="none", zorder=3, label=label)
    total = fmean(row["max_knowledge_bits"] for row in rows)
    axes.axhline(total, color=color, linestyle=":", linewidth=1.0, zorder=1)


def _bits(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row[key] for row in rows for key in ("knowledge_bits", "max_knowledge_bits") if row[key] > 0]


def _dress(axes: Axes, title: str, parameters: Sequence[float], bits: Sequence[float]) -> None:
    """Logarithmic axes around the points, and the lines of 2 bits and 1 bit per parameter."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(parameters) / 2, max(parameters) * 1.6)
    axes.set_ylim(min(bits) / 1.6, max(bits) * 1.6)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        axis.set_major_formatter(EngFormatter(sep=""))
        axis.set_minor_formatter(NullFormatter())
    x = axes.get_xlim()
    for ratio, dashes in ((2, "-"), (1, "--")):
        label = f"{ratio} bit{'s' if ratio > 1 else ''} per parameter"
        axes.plot(x, [ratio * end for end in x], dashes, color=GREY, linewidth=1.2, zorder=2, label=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("parameters")
