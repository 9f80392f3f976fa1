"""The part of the page that says how the network was made, and how to use it: curves, speed, recipe, lines to copy."""

from collections.abc import Mapping, Sequence
from html import escape

from segwright.report.charts import line_chart, number
from segwright.report.content import Report, Timing

_HOUR, _MINUTE = 3600.0, 60.0


def curves(report: Report) -> str:
    """Loss, learning rate and validation score over the time that passed."""
    seconds = [row.get("elapsed_s", 0.0) for row in (*report.history, *report.validation)]
    longest = max(seconds, default=0.0)
    unit, x_name = (_HOUR, "hours") if longest > 2 * _HOUR else (_MINUTE, "minutes")
    if longest <= 2 * _MINUTE:
        unit, x_name = 1.0, "seconds"
    charts = [
        ("mIoU on the validation images", report.validation, "miou", False),
        ("Loss", report.history, "loss", True),
        ("Learning rate", report.history, "learning_rate", False),
    ]
    figures = "".join(
        f"<figure><figcaption>{name}</figcaption>"
        f"{line_chart(_column(rows, key, unit), name=name, x_name=x_name, smooth=smooth, zero=key == 'learning_rate')}"
        "</figure>"
        for name, rows, key, smooth in charts
    )
    return f'<section id="curves"><h2>Training</h2><div class="charts">{figures}</div></section>'


def _column(rows: Sequence[Mapping[str, float]], key: str, unit: float) -> list[tuple[float, float]]:
    return [(row["elapsed_s"] / unit, row[key]) for row in rows if key in row and "elapsed_s" in row]


def speed(timing: Timing) -> str:
    """How long it took and how fast it predicts."""
    waiting = "–" if timing.waiting_share != timing.waiting_share else f"{timing.waiting_share:.1%}"
    tiles = [
        ("Training", number(timing.train_minutes), "minutes"),
        ("Training speed", number(timing.images_per_s), "images a second"),
        ("Waiting for data", waiting, "of the training time"),
        ("Prediction", number(timing.prediction_ms), "ms an image"),
    ]
    items = "".join(f"<li><span>{name}</span><b>{value}</b><span>{unit}</span></li>" for name, value, unit in tiles)
    return f'<section id="speed"><h2>Speed</h2><ul class="tiles">{items}</ul></section>'


def recipe(text: str) -> str:
    """The recipe as it was resolved, so that the run can be repeated."""
    shown = f"<pre>{escape(text.strip())}</pre>" if text.strip() else '<p class="note">No recipe was kept.</p>'
    return f'<section id="recipe"><h2>Recipe</h2>{shown}</section>'


def usage(segmenter: str) -> str:
    """Lines to copy."""
    python = (
        "import segwright\n"
        f"segmenter = segwright.load({segmenter!r})\n"
        'prediction = segmenter.predict("image.png")  # any size; prediction.mask holds the classes\n'
    )
    quoted = f'"{segmenter}"' if " " in segmenter else segmenter
    commands = (
        f"segwright predict {quoted} images/ --out masks\n"
        f"segwright predict {quoted} images/ --out overlays --output overlay\n"
        f"segwright evaluate {quoted} dataset/\n"
    )
    return (
        '<section id="use"><h2>Use the segmenter</h2><h3>Python</h3>'
        f"<pre>{escape(python.rstrip())}</pre><h3>Command line</h3><pre>{escape(commands.rstrip())}</pre></section>"
    )
