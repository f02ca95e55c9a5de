"""An answer of the planner as HTML, narrow enough for a phone: headline, chart, numbers, steps, laws, notes, text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from knowcap.laws.plan.answer import Answer, cell_text, law_text, unit_of
from knowcap.laws.plan.chart import svg
from knowcap.laws.quantity import figure


# The page's own rules for tables and lists are stronger than a class; hence !important.
_STYLE = """
.kc{line-height:1.4;overflow-wrap:break-word} .kc h3{margin:.2em 0 .6em;font-size:1.15em}
.kc h4{margin:1em 0 .3em;font-size:1em} .kc small{opacity:.75;font-size:.85em} .kc li{margin:.25em 0}
.kc table{border:0!important;border-collapse:collapse;width:100%;margin:0!important;font-size:.92em}
.kc tr{border:0!important;background:none!important}
.kc th,.kc td{text-align:left!important;vertical-align:top;padding:.3em .7em .3em 0!important}
.kc th,.kc td{border:0!important;border-bottom:1px solid #8884!important}
.kc td.n{text-align:right!important;padding-right:0!important} .kc .wide{overflow-x:auto;margin-top:1em}
.kc .wide td{white-space:nowrap} .kc pre{overflow-x:auto;font-size:.8em} .kc summary{cursor:pointer;margin:1em 0 .3em}
"""


def answer_html(answer: Answer) -> str:
    """The answer as a fragment of HTML; it ends with the text that `knowcap plan` prints, folded."""
    parts = [f"<h3>{escape(answer.headline)}</h3>"]
    if answer.chart is not None:
        parts.append(svg(answer.chart))
    parts += ["<h4>Numbers</h4>", _results(answer)]
    if answer.table:
        parts.append(f'<div class="wide">{_table(answer.table)}</div>')
    parts += ["<h4>How they come about</h4>", _steps(answer)]
    if answer.laws:
        parts += ["<h4>Laws</h4>", _list(law_text(law) for law in answer.laws)]
    if answer.warnings:
        parts += ["<h4>Notes</h4>", _list(answer.warnings)]
    text = escape(answer.text())
    parts.append(f"<details><summary>as `knowcap plan` prints it</summary><pre><code>{text}</code></pre></details>")
    return f'<style>{_STYLE}</style><div class="kc">{"".join(parts)}</div>'


def _results(answer: Answer) -> str:
    """Each number with its unit, and its interval below it."""
    rows = []
    for name, value in answer.results.items():
        interval = answer.intervals.get(name)
        below = "" if interval is None else f"<br><small>{figure(interval[0])} to {figure(interval[1])}</small>"
        said, unit = escape(name.replace("_", " ")), escape(unit_of(name))
        rows.append(f'<tr><td>{said}</td><td class="n">{figure(value)} <small>{unit}</small>{below}</td></tr>')
    note = ""
    if not answer.intervals:
        spans = ", ".join(f"{figure(low)} to {figure(high)} {unit_of(n)}" for n, (low, high) in answer.ranges.items())
        note = f"No interval: {answer.without_interval}."
        note += f" By {answer.ranges_of}: {spans}." if spans else ""
        note = f"<p><small>{escape(note)}</small></p>"
    return f"<table>{''.join(rows)}</table>{note}"


def _steps(answer: Answer) -> str:
    rows = []
    for step in answer.steps:
        value = "" if step.value is None else figure(step.value, step.unit)
        why = f"<br><small>{escape(step.why)}</small>" if step.why else ""
        rows.append(f'<tr><td>{escape(step.what)}{why}</td><td class="n">{escape(value)}</td></tr>')
    return f"<table>{''.join(rows)}</table>"


def _table(table: Iterable[Any]) -> str:
    rows = list(table)
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell_text(v))}</td>" for v in row.values()) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
