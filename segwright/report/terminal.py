"""Scores in the terminal."""

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.evaluation import Evaluation
from segwright.report.content import Scores
from segwright.uncertainty import Score


def render_scores(evaluation: Evaluation) -> RenderableType:
    """Overall scores with their intervals, the table of classes, and the protocol that they follow."""
    scores = Scores.of(evaluation.confusions, evaluation.classes, evaluation.protocol)
    images = f"{scores.num_images} image{'s' if scores.num_images > 1 else ''}"
    further = [evaluation.measured(counted.name) for counted in evaluation.counted[1:]]
    more = {name: score for measured in further for name, score in measured.items()}
    return Group(
        Text(f"{evaluation.split}: {images}, {1000 * evaluation.seconds_per_image:.0f} ms each"),
        Text(),
        _overall(scores, {name: score for name, score in more.items() if score.value.ndim == 0}),
        Text(),
        _classes(scores),
        Text(),
        *(part for measured in further for part in _further_classes(measured, scores)),
        Text(scores.protocol, style="dim"),
    )


def _overall(scores: Scores, more: Mapping[str, Score]) -> Table:
    table = Table.grid(padding=(0, 2))
    named = {"mIoU": scores.mean_iou, "mean Dice": scores.mean_dice, "pixel accuracy": scores.pixel_accuracy}
    for name, score in (named | {spoken(name): score for name, score in more.items()}).items():
        interval = say_interval(score)
        table.add_row(Text(name, style="bold"), Text(say_score(score), style="bold"), f"({interval})" * bool(interval))
    return table


def _further_classes(measured: Mapping[str, Score], scores: Scores) -> list[RenderableType]:
    """The table of classes of a further metric; nothing if it has no score of a class."""
    of_classes = {name: score for name, score in measured.items() if score.value.ndim == 1}
    if not of_classes:
        return []
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class")
    for name in of_classes:
        table.add_column(spoken(name), justify="right")
    for index, name in enumerate(scores.classes.names):
        values = (say_score(_of_class(score, index)) for score in of_classes.values())
        table.add_row(_swatch(scores, index, name), *values)
    return [table, Text()]


def _swatch(scores: Scores, index: int, name: str) -> Text:
    return Text.assemble(("■ ", "#{:02x}{:02x}{:02x}".format(*scores.classes.colors[index])), name)


def _classes(scores: Scores) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class")
    for column in ("IoU", "95 %", "Dice", "share"):
        table.add_column(column, justify="right")
    shares = scores.confusion.sum(axis=1) / max(scores.confusion.sum(), 1)
    for index, name in enumerate(scores.classes.names):
        iou, dice = (_of_class(score, index) for score in (scores.intersection_over_union, scores.dice))
        table.add_row(
            _swatch(scores, index, name),
            say_score(iou),
            say_interval(iou),
            say_score(dice),
            f"{shares[index]:.1%}",
        )
    return table


def _of_class(score: Score, index: int) -> Score:
    return Score(score.value[index], score.low[index], score.high[index], score.lower_is_better, score.is_distance)


def spoken(name: str) -> str:
    """Name of a score as a reader says it."""
    words = {"miou": "mIoU", "iou": "IoU", "hd95": "HD95", "assd": "ASSD", "dice": "Dice"}
    short = {"f1", "pq", "sq", "rq", "ece", "mce"}
    return " ".join(word.upper() if word in short else words.get(word, word) for word in name.split("_"))


def say_score(score: Score) -> str:
    """A score as a number: shares in percent, distances as they are."""
    return _number(float(score.value), score.is_distance)


def say_interval(score: Score) -> str:
    """The interval of a score; nothing where there is none."""
    low, high = float(score.low), float(score.high)
    return "" if math.isnan(low) else f"{_number(low, score.is_distance)} to {_number(high, score.is_distance)}"


def _number(value: float, is_distance: bool) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if is_distance else f"{100 * value:.1f}"
