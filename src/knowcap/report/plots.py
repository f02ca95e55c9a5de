"""Plots of capacities and training runs, as PNG, PDF and SVG files; matplotlib is imported when one is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from knowcap.files import whole_file
from knowcap.models.names import MODEL_FAMILIES, family_of


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from knowcap.capacity.entities import EntityBits


# Colors for color-blind readers (Okabe and Ito). By precision, the size of marks and whether they are filled, so that
# equal points of several precisions are all visible.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "*")
PRECISIONS = {"int8": (10, False), "int4": (14, False)}
FULL_PRECISION = (6, True)
GREY = "#777777"
DPI = 150
BESIDE_PNG = (".pdf", ".svg")
_CURVE_POINTS = 150  # of a curve in SVG, at most


def plot_frontier(capacities: Sequence[dict[str, Any]], path: str | Path) -> Path:
    """Learned bits against parameters on logarithmic axes, with the lines of 2 bits and 1 bit per parameter.

    The mark is the architecture, and its size and filling are the precision; a white one is a run that lost (`won` is
    False). Color is the number of entities N, and a dotted line is all their knowledge (R_max); error bars are
    confidence intervals. Models without any bits cannot be shown on a logarithmic axis and are counted below the plot.

    Args:
        capacities: contents of capacity.json, one per point.
        path: of the PNG file.

    Raises:
        ValueError: no capacities.
    """
    return save_plot(_frontier(capacities), path)


def frontier_svg(capacities: Sequence[dict[str, Any]]) -> str:
    """The same plot as SVG; the tooltip of a point is its `run` and bits per parameter."""
    tips = {
        f"run-{i}": f"{c['run']}: {c['bits_per_parameter']:.3f} bits per parameter" for i, c in enumerate(capacities)
    }
    figure = _frontier(capacities)
    figure.axes[0].set_title("")
    return _svg(figure, "frontier", "knowledge learned against model size", tips)


def _frontier(capacities: Sequence[dict[str, Any]]) -> Figure:
    if not capacities:
        raise ValueError("nothing to plot: got no capacities, expected the content of one capacity.json or more")
    figure, axes = _figure((7.2, 5.2))
    axes.set_xscale("log")
    axes.set_yscale("log")
    style = _Style.of(capacities)
    shown = [(i, c) for i, c in enumerate(capacities) if c["knowledge_bits"] > 0]
    for i, c in sorted(shown, key=lambda point: point[1].get("won") is True):
        _frontier_point(axes, c, style, f"run-{i}")
    _frontier_limits(axes, capacities, [c for _, c in shown])
    _frontier_lines(axes, capacities, style)
    _frontier_legend(axes, capacities, style)
    axes.set_title("Knowledge learned against model size")
    notes = ["parameters"]
    if len(shown) < len(capacities):
        notes.append(
            f"{len(capacities) - len(shown)} of {len(capacities)} hold no bits (zero or less) and are not shown"
        )
    if unbound := sum(not c.get("bound", True) for c in capacities):
        notes.append(f"{unbound} of {len(capacities)} are not a lower bound (see their cards)")
    axes.set_xlabel("\n".join(notes))
    axes.set_ylabel("knowledge learned (bits)")
    return figure


def plot_attributes(capacity: dict[str, Any], path: str | Path) -> Path:
    """Bits per entity of each attribute beside their maximum.

    Args:
        capacity: the content of a capacity.json.
        path: of the PNG file.
    """
    names = list(capacity["attributes"])
    rows = [capacity["attributes"][name] for name in names]
    figure, axes = _figure((7.2, 1.5 + 0.42 * len(names)))
    y = np.arange(len(names))
    most = [row["max_bits_per_entity"] or 0.0 for row in rows]
    held = [row["bits_per_entity"] or 0.0 for row in rows]
    axes.barh(y, most, height=0.72, color="#E3E3E3", label="maximum")
    axes.barh(y, held, height=0.42, color=COLORS[0], label="learned")
    room = max(*most, *held, 1e-9) * 0.012
    for i, row in enumerate(rows):
        text = f"{held[i]:.2f} of {most[i]:.2f}" if row["bits_per_entity"] is not None else "not stated"
        axes.text(max(most[i], held[i], 0.0) + room, i, text, va="center", fontsize=8.5, color="#333333")
    axes.set_yticks(y, [name.replace("_", " ") for name in names])
    axes.invert_yaxis()
    low, high = min(*held, 0.0), max(*most, *held, 1e-9)
    axes.set_xlim(low * 1.1, high + 0.22 * (high - low))
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("bits per entity")
    axes.set_title(f"Bits per entity of {capacity['model_name']} ({capacity['precision']})")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return save_plot(figure, path)


def plot_entities(entities: EntityBits, capacity: dict[str, Any], path: str | Path) -> Path:
    """Histogram of the bits per entity, with their mean and maximum.

    Args:
        entities: from `knowcap.capacity.entities.bits_by_entity`.
        capacity: the content of the same model's capacity.json, for its name.
        path: of the PNG file.
    """
    figure, axes = _figure((7.2, 4.0))
    bits, most = entities.bits, float(entities.most.mean())
    # With many entities the lowest 0.05 % go into the first bar, so that outliers do not compress all other bars.
    low = float(bits.min() if len(bits) < 2000 else np.quantile(bits, 0.0005))
    high = max(float(bits.max()), most)
    edges = np.linspace(low, high + 1e-9 * max(1.0, abs(high)), min(60, 10 + len(bits) // 20) + 1)
    axes.hist(np.clip(bits, edges[0], edges[-1]), bins=edges.tolist(), color=COLORS[0])
    axes.axvline(float(bits.mean()), color=COLORS[1], linewidth=1.5, label=f"mean {bits.mean():.2f}")
    label = f"{'maximum' if np.ptp(entities.most) < 1e-9 else 'mean maximum'} {most:.2f}"
    axes.axvline(most, color=GREY, linestyle="--", linewidth=1.5, label=label)
    if below := int((bits < 0).sum()):
        axes.axvline(0, color="#333333", linewidth=0.8, label=f"below zero: {below:,} of {len(bits):,}")
    farther = int((bits < low).sum())
    note = f"\nthe first bar includes {farther:,} with fewer bits, down to {bits.min():.1f}" if farther else ""
    axes.set_xlabel(f"bits per entity{note}")
    axes.set_ylabel("number of entities")
    axes.set_title(f"Distribution of bits per entity in {capacity['model_name']} ({capacity['precision']})")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return save_plot(figure, path)


def plot_loss(training: dict[str, Any], path: str | Path) -> Path:
    """Training loss (nats per token) against the tokens seen, or against steps if tokens were not logged.

    Bits per parameter have an axis at the right if they were measured during training.

    Args:
        training: the content of a training.json; its `log_history` holds the points, `knowledge_history` the bits.
        path: of the PNG file.

    Raises:
        ValueError: no losses were logged.
    """
    return save_plot(_loss(training, _losses(training), (7.2, 4.0)), path)


def loss_svg(training: dict[str, Any], name: str) -> str:
    """The same plot as a small SVG without a title; empty without losses. `name` must be unique in a page."""
    points = _losses(training)
    if not points:
        return ""
    step = -(-len(points) // _CURVE_POINTS)
    figure = _loss(training, points[::-step][::-1], (4.2, 2.3), layout=None)  # constrained layout is slow
    figure.subplots_adjust(left=0.14, right=0.88, bottom=0.21, top=0.97)
    for axes, label in zip(figure.axes, ("loss (nats per token)", "bits per parameter"), strict=False):
        axes.set_title("")
        axes.set_ylabel(label)
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_fontsize(8.5)
    return _svg(figure, name, f"training loss of {training['model_name']}", {})


def _losses(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The log entries with a loss."""
    return [entry for entry in training.get("log_history", []) if entry.get("loss") is not None]


def _loss(
    training: dict[str, Any],
    points: Sequence[dict[str, Any]],
    size: tuple[float, float],
    layout: Literal["constrained"] | None = "constrained",
) -> Figure:
    if not points:
        raise ValueError("nothing to plot: log_history holds no loss; set logging_steps below the number of steps")
    unit = "tokens" if all("tokens" in entry for entry in points) else "step"
    figure, axes = _figure(size, layout)
    x = [entry[unit] for entry in points]
    marker = "o" if len(points) < 30 else None
    axes.plot(x, [entry["loss"] for entry in points], color=COLORS[0], linewidth=1.5, marker=marker, markersize=3)
    axes.xaxis.set_major_formatter(_engineering())
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens seen" if unit == "tokens" else "steps")
    axes.set_ylabel("training loss (nats per token)")
    _bits_while_training(axes, training.get("knowledge_history", []), unit)
    axes.set_title(f"Training loss of {training['model_name']}")
    return figure


def _bits_while_training(axes: Axes, points: Sequence[dict[str, float]], unit: str) -> None:
    """Bits per parameter and their maximum on an axis at the right; values below zero are cut off."""
    if not points:
        return
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    bits = [entry["bits_per_parameter"] for entry in points]
    right.plot([entry[unit] for entry in points], bits, color=COLORS[1], linewidth=1.5, marker="o", markersize=3)
    most = points[-1]["max_bits_per_parameter"]
    right.axhline(most, color=COLORS[1], linestyle=":", linewidth=1.0)
    right.set_ylim(min(0.0, max(bits)), 1.05 * max(most, *bits))
    right.set_ylabel("bits per parameter (dotted: maximum)", color=COLORS[1])
    axes.yaxis.label.set_color(COLORS[0])


def _figure(size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> tuple[Figure, Axes]:
    """An empty figure in the style of all plots; no display is needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#EBEBEB", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def formats_of(path: Path) -> list[Path]:
    """The files of a plot: a PNG file has a PDF and an SVG beside it; a path of another format stands alone."""
    return [path, *map(path.with_suffix, BESIDE_PNG)] if path.suffix == ".png" else [path]


def save_plot(figure: Figure, path: str | Path) -> Path:
    """Writes a figure to the files of `formats_of`, the same bytes for the same figure, and returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(figure, formats_of(path))
    return path


def _draw(figure: Figure, files: Sequence[Path]) -> None:
    from matplotlib import rc_context

    figure.draw_without_rendering()  # once for all formats: the layout is what takes time
    figure.set_layout_engine("none")
    for file in files:
        dated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
        with whole_file(file) as made, rc_context({"svg.hashsalt": "knowcap", "svg.fonttype": "none"}):
            figure.savefig(made, dpi=DPI, format=file.suffix[1:], metadata=dated.get(file.suffix))


def _svg(figure: Figure, name: str, label: str, tips: Mapping[str, str]) -> str:
    """The figure as an <svg> element, the same for the same figure; texts stay texts, in the font of the page.

    Args:
        figure: the figure.
        name: prefix of ids, which must be unique in a page.
        label: what the plot shows, for readers that cannot see it.
        tips: tooltips of elements by their gid.
    """
    from matplotlib import rc_context

    file = StringIO()
    with rc_context({"svg.hashsalt": "knowcap", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"<!--.*?-->\s*", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r"(\.\d\d)\d+", r"\1", text[text.index("<svg ") :])
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    text = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", text)

    def named(match: re.Match[str]) -> str:
        tip = f"><title>{escape(tips[match[1]])}</title>" if match[1] in tips else match[2]
        return f' id="{name}-{match[1]}"{tip}' if match[1] in used else tip

    text = re.sub(r' id="([\w.-]+)"(>?)', named, text)
    return re.sub(
        r"\s*\n\s*", "\n", text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    ).strip()


def _engineering() -> Any:
    """Ticks such as 10k and 2.5M."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


@dataclass(frozen=True)
class _Style:
    """Which color stands for which N, and which mark for which architecture.

    Attributes:
        sizes: the N of all points, in order.
        families: their architectures, those of knowcap first.
    """

    sizes: tuple[int, ...]
    families: tuple[str, ...]

    @classmethod
    def of(cls, capacities: Sequence[dict[str, Any]]) -> _Style:
        families = {family_of(str(c.get("model_name"))) for c in capacities}
        known = [family for family in MODEL_FAMILIES if family in families]
        sizes = sorted({c["num_entities"] for c in capacities})
        return cls(tuple(sizes), (*known, *sorted(families - set(known))))

    def color(self, num_entities: int) -> str:
        """Of points and lines."""
        return COLORS[self.sizes.index(num_entities) % len(COLORS)]

    def mark(self, family: str, precision: str, color: str, hollow: bool = False) -> dict[str, Any]:
        """The style of points."""
        size, filled = PRECISIONS.get(precision, FULL_PRECISION)
        marker = MARKERS[self.families.index(family) % len(MARKERS)]
        face = "white" if hollow else color if filled else "none"
        return {"marker": marker, "markersize": size, "color": color, "mfc": face, "mew": 1.4, "linestyle": "none"}


def _frontier_point(axes: Axes, capacity: dict[str, Any], style: _Style, gid: str) -> None:
    """One capacity with its interval, cut off at zero bits."""
    x, y = capacity["num_parameters"], capacity["knowledge_bits"]
    low, high = capacity["confidence_interval"]
    color = style.color(capacity["num_entities"])
    if low is not None and high is not None:
        errors = [[min(y - low * x, y * (1 - 1e-9))], [high * x - y]]
        axes.errorbar(x, y, yerr=np.maximum(errors, 0.0), ecolor=color, elinewidth=1.2, capsize=3, zorder=2)
    family, hollow = family_of(str(capacity.get("model_name"))), capacity.get("won") is False
    axes.plot(x, y, zorder=3, gid=gid, **style.mark(family, capacity["precision"], color, hollow))


def _frontier_limits(axes: Axes, capacities: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> None:
    """Limits with room around all points; at least a decade on each axis, so that there are enough ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    parameters = [c["num_parameters"] for c in capacities]
    bits = [c["knowledge_bits"] for c in shown] + [c["max_knowledge_bits"] for c in capacities]
    for values, set_limits in ((parameters, axes.set_xlim), (bits, axes.set_ylim)):
        low, high = np.log10(min(values)) - 0.3, np.log10(max(values)) + 0.3
        gap = max(0.0, 1.2 - (high - low)) / 2
        set_limits(10 ** (low - gap), 10 ** (high + gap))
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        axis.set_major_formatter(_engineering())
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="minor", color="#F5F5F5", linewidth=0.5)


def _frontier_lines(axes: Axes, capacities: Sequence[dict[str, Any]], style: _Style) -> None:
    """The lines of 2 bits and 1 bit per parameter, and the maximum of knowledge for each N."""
    x = np.array(axes.get_xlim())
    morris = ((3.6, "-."),) if any(c.get("dataset") == "morris" for c in capacities) else ()  # Morris et al. 2025
    for ratio, dashes in (*morris, (2, "-"), (1, "--")):
        label = f"{ratio} bit{'s' if ratio > 1 else ''} per parameter"
        axes.plot(x, ratio * x, dashes, color=GREY, linewidth=1.2, zorder=1, label=label)
    for size, total in sorted({(c["num_entities"], c["max_knowledge_bits"]) for c in capacities}):
        axes.axhline(total, color=style.color(size), linestyle=":", linewidth=1.0, zorder=1)


def _frontier_legend(axes: Axes, capacities: Sequence[dict[str, Any]], style: _Style) -> None:
    """One entry per line, architecture, precision and N, and one for all maxima, beside the plot."""
    from matplotlib.lines import Line2D

    handles = list(axes.get_legend_handles_labels()[0])
    handles.append(Line2D([], [], linestyle=":", color=GREY, linewidth=1.5, label="all facts (R_max)"))
    for family in style.families:
        handles.append(Line2D([], [], label=family, **style.mark(family, "", GREY)))
    for precision in dict.fromkeys(c["precision"] for c in capacities):
        handles.append(Line2D([], [], label=precision, **style.mark(style.families[0], precision, "#333333")))
    for size in style.sizes:
        handles.append(Line2D([], [], color=style.color(size), linewidth=4, label=f"N = {size:,}"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5)
