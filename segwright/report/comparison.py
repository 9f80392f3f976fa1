"""Several segmenters side by side: in the terminal, and as a page."""

import math
from html import escape
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.comparison import Compared, Comparison
from segwright.files import write_whole
from segwright.report.html import frame
from segwright.report.terminal import say_interval, say_score, spoken

SIGNIFICANT = 0.05
"""P-values below this are called more than chance."""


def render_comparison(comparison: Comparison) -> RenderableType:
    """The table of segmenters, the table of classes, and the protocol."""
    images = f"{comparison.num_images} image{'s' if comparison.num_images > 1 else ''}"
    parts: list[RenderableType] = [Text(f"{comparison.split}: {images}"), Text(), _table(comparison), Text()]
    if all(len(row.by_class) == len(comparison.classes) for row in comparison.rows):
        parts += [_class_table(comparison), Text()]
    return Group(*parts, Text(_method(comparison), style="dim"))


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    for column in (spoken(comparison.score), "95 %", "difference", "95 %", "p", "ms"):
        table.add_column(column, justify="right")
    for row in comparison.rows:
        table.add_row(
            Text(row.name, style="bold"),
            Text(say_score(row.score), style="bold"),
            say_interval(row.score),
            *_say_difference(row),
            f"{1000 * row.seconds_per_image:.0f}",
        )
    return table


def _say_difference(row: Compared) -> tuple[Text, str, str]:
    """Difference, its interval and its p-value in words."""
    found = row.difference
    if found is None:
        return Text("–"), "", ""
    scale, digits = (1.0, 2) if row.score.is_distance else (100.0, 1)
    if math.isnan(found.value):
        return Text("–"), "", ""
    is_better = (found.value < 0) == row.score.lower_is_better
    style = ("green" if is_better else "red") if found.p_value < SIGNIFICANT else ""
    interval = "" if math.isnan(found.low) else f"{scale * found.low:+.{digits}f} to {scale * found.high:+.{digits}f}"
    p_value = f"{found.p_value:.3f}" if found.p_value >= 0.001 else "< 0.001"
    return Text(f"{scale * found.value:+.{digits}f}", style=style), interval, p_value


def _class_table(comparison: Comparison) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class")
    for row in comparison.rows:
        table.add_column(Text(row.name), justify="right")
    for index, name in enumerate(comparison.classes.names):
        color = "#{:02x}{:02x}{:02x}".format(*comparison.classes.colors[index])
        values = [_class_value(row, index) for row in comparison.rows]
        table.add_row(Text.assemble(("■ ", color), name), *values)
    return table


def _class_value(row: Compared, index: int) -> str:
    value = float(row.by_class[index])
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if row.score.is_distance else f"{100 * value:.1f}"


def _method(comparison: Comparison) -> str:
    return (
        f"{comparison.protocol} Difference to {comparison.rows[0].name}, with its paired bootstrap interval over "
        "images (not adjusted); p: two-sided paired permutation test over images, Holm-adjusted for the number of "
        "comparisons."
    )


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the page of a comparison: one HTML file that needs nothing else."""
    images = f"{comparison.num_images} image{'s' if comparison.num_images > 1 else ''}"
    title = f"{spoken(comparison.score)} of {len(comparison.rows)} segmenters"
    head = (
        f'<header><p class="kicker">Segwright comparison</p><h1>{escape(title)}</h1>'
        f"<p><b>Measured on {images}, split {escape(comparison.split)}.</b> {escape(_method(comparison))}</p></header>"
    )
    body = (head, _chart(comparison), _rows(comparison), _class_rows(comparison))
    write_whole(path, frame(title, body).encode())


def _chart(comparison: Comparison) -> str:
    """One bar a segmenter with its interval."""
    ends = [float(end) for row in comparison.rows for end in (row.score.value, row.score.high) if math.isfinite(end)]
    most = (max(ends, default=0.0) or 1.0) if comparison.rows[0].score.is_distance else 1.0
    bars = []
    for row in comparison.rows:
        value, low, high = (float(end) / most for end in (row.score.value, row.score.low, row.score.high))
        whisker = "" if math.isnan(low) else f'<b style="left:{low:.1%};width:{max(0.0, high - low):.1%}"></b>'
        bar = "" if math.isnan(value) else f'<i style="width:{value:.1%};background:var(--accent)"></i>'
        bars.append(
            f'<tr><th scope="row">{escape(row.name)}</th><td class="bar"><div>{bar}{whisker}</div></td>'
            f'<td><b>{say_score(row.score)}</b><span class="interval">{say_interval(row.score)}</span></td></tr>'
        )
    return (
        f'<section id="scores"><h2>{escape(spoken(comparison.score))}</h2><div class="scroll"><table class="scores">'
        f"<tbody>{''.join(bars)}</tbody></table></div></section>"
    )


def _rows(comparison: Comparison) -> str:
    rows = []
    for row in comparison.rows[1:]:
        difference, interval, p_value = _say_difference(row)
        assert row.difference is not None
        verdict = "more than chance" if row.difference.p_value < SIGNIFICANT else "may be chance"
        rows.append(
            f'<tr><th scope="row">{escape(row.name)}</th><td><b>{difference.plain}</b></td><td>{interval}</td>'
            f"<td>{p_value}</td><td>{verdict}</td></tr>"
        )
    return (
        f'<section id="differences"><h2>Difference to {escape(comparison.rows[0].name)}</h2><div class="scroll"><table>'
        '<thead><tr><th></th><th scope="col">Difference</th><th scope="col">95 % interval</th><th scope="col">p</th>'
        f'<th scope="col"></th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _class_rows(comparison: Comparison) -> str:
    if any(len(row.by_class) != len(comparison.classes) for row in comparison.rows):
        return ""
    head = "".join(f'<th scope="col">{escape(row.name)}</th>' for row in comparison.rows)
    lines = []
    for index, name in enumerate(comparison.classes.names):
        values = np.array([row.by_class[index] for row in comparison.rows])
        ranked = values if comparison.rows[0].score.lower_is_better else -values
        best = int(np.nanargmin(ranked)) if np.isfinite(values).any() else -1
        cells = "".join(
            f"<td>{'<b>' if at == best else ''}{_class_value(row, index)}{'</b>' if at == best else ''}</td>"
            for at, row in enumerate(comparison.rows)
        )
        color = "#{:02x}{:02x}{:02x}".format(*comparison.classes.colors[index])
        lines.append(f'<tr><th scope="row"><i style="background:{color}"></i>{escape(name)}</th>{cells}</tr>')
    return (
        f'<section id="classes"><h2>Classes</h2><div class="scroll"><table><thead><tr><th scope="col">Class</th>{head}'
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )
