"""Scores in the terminal."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.evaluation import PROTOCOL, Evaluation
from segwright.report.content import Measured, Scores


def render_scores(evaluation: Evaluation) -> RenderableType:
    """Overall scores with their intervals, the table of classes, and the protocol that they follow."""
    scores = Scores.of(evaluation.confusions, evaluation.classes, PROTOCOL)
    images = f"{scores.num_images} image{'s' if scores.num_images > 1 else ''}"
    return Group(
        Text(f"{evaluation.split}: {images}, {1000 * evaluation.seconds_per_image:.0f} ms each"),
        Text(),
        _overall(scores),
        Text(),
        _classes(scores),
        Text(),
        Text(PROTOCOL, style="dim"),
    )


def _overall(scores: Scores) -> Table:
    table = Table.grid(padding=(0, 2))
    named = {"mIoU": scores.mean_iou, "mean Dice": scores.mean_dice, "pixel accuracy": scores.pixel_accuracy}
    for name, measured in named.items():
        value, low, high = (float(end) for end in (measured.value, measured.low, measured.high))
        interval = _interval(low, high)
        table.add_row(Text(name, style="bold"), Text(_number(value), style="bold"), f"({interval})" if interval else "")
    return table


def _classes(scores: Scores) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class")
    for column in ("IoU", "95 %", "Dice", "share"):
        table.add_column(column, justify="right")
    shares = scores.confusion.sum(axis=1) / max(scores.confusion.sum(), 1)
    iou: Measured = scores.intersection_over_union
    for index, name in enumerate(scores.classes.names):
        color = "#{:02x}{:02x}{:02x}".format(*scores.classes.colors[index])
        table.add_row(
            Text.assemble(("■ ", color), name),
            _number(float(iou.value[index])),
            _interval(float(iou.low[index]), float(iou.high[index])),
            _number(float(scores.dice.value[index])),
            f"{shares[index]:.1%}",
        )
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
