"""Small charts as SVG text: axes, ticks, lines and marks that say what they are when pointed at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape


GREY = "#777777"


@dataclass(frozen=True)
class Axis:
    """From values to pixels.

    Attributes:
        low, high: the values at its ends; more than 0 where logarithmic.
        start, end: their pixels.
        log: logarithmic, with ticks at powers of ten (and at 2 and 5, where there are few).
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1,) if math.log10(self.high / self.low) > 3 else (1, 2, 5)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            rough = (self.high - self.low) / 4
            unit = 10 ** math.floor(math.log10(rough))
            step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
            found = [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        inside = 1e-9 * (self.high - self.low)
        return [value for value in found if self.low - inside <= value <= self.high + inside]


@dataclass
class Chart:
    """A chart being drawn; `svg` gives it as text."""

    width: float
    height: float
    x: Axis
    y: Axis
    label: str
    parts: list[str] = field(default_factory=list)

    def grid(self, x_label: str, y_label: str) -> None:
        """Grid lines, ticks and the axes' names."""
        for value in self.x.ticks():
            at = self.x.at(value)
            self.segment(at, self.y.start, at, self.y.end, "#ebebeb")
            self.text(at, self.y.start + 15, number(value), "middle")
        for value in self.y.ticks():
            at = self.y.at(value)
            self.segment(self.x.start, at, self.x.end, at, "#ebebeb")
            self.text(self.x.start - 6, at + 4, number(value), "end")
        self.segment(self.x.start, self.y.start, self.x.end, self.y.start, "#333333")
        self.segment(self.x.start, self.y.start, self.x.start, self.y.end, "#333333")
        self.text((self.x.start + self.x.end) / 2, self.y.start + 32, x_label, "middle")
        middle = (self.y.start + self.y.end) / 2
        self.parts.append(
            f'<text x="13" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 13 {middle:.1f})">'
            f"{escape(y_label)}</text>"
        )

    def segment(
        self, x1: float, y1: float, x2: float, y2: float, color: str, dash: str = "", width: float = 1
    ) -> None:
        """A straight line between pixels."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width:g}"{dashes}/>'
        )

    def text(self, x: float, y: float, text: str, anchor: str = "start", color: str = "#333333") -> None:
        """A line of text at a pixel."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>')

    def line(self, points: Iterable[tuple[float, float]], color: str, dash: str = "", width: float = 1.5) -> None:
        """A line through values."""
        told = " ".join(f"{self.x.at(x):.1f},{self.y.at(y):.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{told}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashes}/>')

    def mark(self, x: float, y: float, shape: int, color: str, filled: bool, told: str) -> None:
        """A mark at values, which says what it is when pointed at."""
        self.parts.append(mark(self.x.at(x), self.y.at(y), shape, color, filled, told))

    def svg(self) -> str:
        """The whole chart."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}" '
            f'role="img" aria-label="{escape(self.label)}">{"".join(self.parts)}</svg>'
        )


def mark(x: float, y: float, shape: int, color: str, filled: bool, told: str) -> str:
    """A mark at pixels: circle, square, triangle, diamond, inverted triangle, and so on again."""
    outlines: Sequence[Sequence[tuple[float, float]]] = (
        (),
        ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
        ((0, -6), (5.5, 4.5), (-5.5, 4.5)),
        ((0, -6.5), (6.5, 0), (0, 6.5), (-6.5, 0)),
        ((0, 6), (5.5, -4.5), (-5.5, -4.5)),
    )
    look = f'fill="{color if filled else "#ffffff"}" stroke="{color}" stroke-width="1.6"'
    title = f"<title>{escape(told)}</title>" if told else ""
    outline = outlines[shape % len(outlines)]
    if not outline:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5" {look}>{title}</circle>'
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outline)
    return f'<polygon class="mark" points="{points}" {look}>{title}</polygon>'


def number(value: float) -> str:
    """A tick's text: 10k, 2.5M, 0.5."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{letter}"
    return f"{value:.6g}"
