"""The part of the page that says how good the network is: headline, classes, confusions, single images."""

import math
from html import escape

import numpy as np
from jaxtyping import Float64

from segwright.report.charts import number
from segwright.report.content import Example, ImageScore, Report, Scores
from segwright.report.pictures import example_pictures, longest_side
from segwright.uncertainty import Score

_MOST_NAMED_CONFUSIONS = 5
_MOST_CELLS_WITH_TEXT = 16  # classes; above this the heat map has no numbers, only tooltips
_MOST_LISTED_IMAGES = 200
_FEW_IMAGES = 20


def headline(report: Report) -> str:
    """The score, what it is worth, and how it was measured."""
    scores = report.scores
    counted = "1 image" if scores.num_images == 1 else f"{scores.num_images} images"
    return (
        f'<header><p class="kicker">Segwright report</p><h1>{escape(report.title)}</h1>'
        f'<div class="hero"><p class="score"><span>mIoU</span><strong>{_score(float(scores.mean_iou.value))}</strong>'
        f"{_between(scores.mean_iou)}</p>"
        f"<div><p>{_in_words(scores)}</p><p><b>Measured on {counted}.</b> {escape(scores.protocol)}</p></div></div>"
        f'<ul class="tiles">{_tile("Mean Dice", scores.mean_dice)}{_tile("Pixel accuracy", scores.pixel_accuracy)}'
        f"</ul></header>"
    )


def _in_words(scores: Scores) -> str:
    value, low, high = (float(end) for end in (scores.mean_iou.value, scores.mean_iou.low, scores.mean_iou.high))
    if math.isnan(value):
        return "No pixel was measured, so there is no score."
    words = (
        f"On average over the classes, what the network marked and what the masks mark overlap by "
        f"<b>{value:.1%}</b> of their union."
    )
    if math.isnan(low):
        return f"{words} There is no interval: a single image says nothing about others."
    words += f" These images are a sample; over all images of the kind, mIoU likely lies between {_score(low)} and "
    words += f"{_score(high)} ({scores.level:.0%} interval, bootstrap over images)."
    return words + (" With so few images, the interval itself is rough." if scores.num_images < _FEW_IMAGES else "")


def _tile(name: str, measured: Score) -> str:
    return f"<li><span>{name}</span><b>{_score(float(measured.value))}</b>{_between(measured)}</li>"


def _between(measured: Score) -> str:
    if math.isnan(float(measured.low)):
        return ""
    return f'<span class="interval">{_score(float(measured.low))} – {_score(float(measured.high))}</span>'


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def examples(report: Report) -> str:
    """The worst and the best images, with mask, prediction and errors side by side."""
    groups = [("Worst images", report.worst), ("Best images", report.best)]
    side = longest_side(sum(len(group) for _, group in groups))
    parts = [
        '<section id="examples"><h2>Worst and best images</h2>',
        '<p class="legend">',
        *(_legend(name, color) for name, color in _named_colors(report.scores)),
        '<span><i class="wrong"></i>wrong pixel</span><span><i class="void"></i>void: not measured</span></p>',
    ]
    for title, group in groups:
        parts.append(f"<h3>{title}</h3>")
        parts += [_example(example, report.scores, side) for example in group]
        parts += [] if group else ['<p class="note">No example was kept.</p>']
    return "".join(parts) + "</section>"


def _named_colors(scores: Scores) -> list[tuple[str, str]]:
    return [
        (name, "#{:02x}{:02x}{:02x}".format(*color))
        for name, color in zip(scores.classes.names, scores.classes.colors, strict=True)
    ]


def _legend(name: str, color: str) -> str:
    return f'<span><i style="background:{color}"></i>{escape(name)}</span>'


def _example(example: Example, scores: Scores, side: int) -> str:
    name = escape(example.name)
    small = " small" if max(example.image.shape[:2]) < 200 else ""
    height, width = example.mask.shape
    columns = "".join(
        f'<figure><img src="{uri}" alt="{kind} of {name}" loading="lazy"><figcaption>{kind}</figcaption></figure>'
        for kind, uri in example_pictures(example, scores.classes, side).items()
    )
    return (
        f'<article class="example"><p><b>{name}</b><span>mIoU {_score(example.score)}</span>'
        f'<span class="note">{height} × {width}</span></p><div class="quad{small}">{columns}</div></article>'
    )


def class_table(scores: Scores) -> str:
    """One row a class: bar and interval of the IoU, the other scores, and how common the class is."""
    pixels = scores.confusion.sum(axis=1)
    shares = pixels / max(1, int(pixels.sum()))
    rows = "".join(_class_row(scores, index, float(share)) for index, share in enumerate(shares))
    return (
        '<section id="classes"><h2>Classes</h2><div class="scroll"><table class="scores">'
        '<thead><tr><th scope="col">Class</th><th scope="col" colspan="2">IoU, with interval</th>'
        '<th scope="col">Dice</th><th scope="col">Precision</th><th scope="col">Recall</th>'
        f'<th scope="col">Share of pixels</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">Precision: of the pixels given a class, the share that is of it. Recall: of the pixels of a '
        "class, the share that was found. A dash: the class occurs neither in masks nor in predictions, or its score "
        "is not defined.</p></section>"
    )


def _class_row(scores: Scores, index: int, share: float) -> str:
    name, color = _named_colors(scores)[index]
    iou = scores.intersection_over_union
    value, low, high = (float(end[index]) for end in (iou.value, iou.low, iou.high))
    others = "".join(
        f"<td>{_score(float(measured.value[index]))}</td>"
        for measured in (scores.dice, scores.precision, scores.recall)
    )
    interval = "" if math.isnan(low) else f'<span class="interval">{_score(low)} – {_score(high)}</span>'
    return (
        f'<tr><th scope="row"><i style="background:{color}"></i>{escape(name)}</th>'
        f'<td class="bar">{_bar(value, low, high, color)}</td><td><b>{_score(value)}</b>{interval}</td>{others}'
        f"<td>{_percent(share)}</td></tr>"
    )


def _bar(value: float, low: float, high: float, color: str) -> str:
    if math.isnan(value):
        return ""
    whisker = "" if math.isnan(low) else f'<b style="left:{low:.1%};width:{max(0.0, high - low):.1%}"></b>'
    return f'<div><i style="width:{value:.1%};background:{color}"></i>{whisker}</div>'


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "< 0.1%"


def confusion_table(scores: Scores) -> str:
    """The heat map of confusions, each row in shares of its class, and the largest ones in words."""
    totals = scores.confusion.sum(axis=1, keepdims=True)
    shares = scores.confusion / np.maximum(totals, 1)
    head = "".join(
        f'<th scope="col" title="{escape(name)}">{index}</th>' for index, name in enumerate(scores.classes.names)
    )
    rows = "".join(_confusion_row(scores, shares, index) for index in range(len(scores.classes)))
    crowded = " crowded" if len(scores.classes) > _MOST_CELLS_WITH_TEXT else ""
    return (
        f'<section id="confusion"><h2>Confusions</h2>{_largest_confusions(scores, shares)}'
        f'<div class="scroll"><table class="heat{crowded}"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="note">Rows: the class in the mask. Columns: the class that was '
        "predicted, by the numbers of the rows. Each row sums to 100%; blue is right, red is wrong.</p></section>"
    )


def _confusion_row(scores: Scores, shares: Float64[np.ndarray, "K K"], row: int) -> str:
    names, cells = scores.classes.names, []
    for column, share in enumerate(shares[row].tolist()):
        kind = "right" if row == column else "wrong"
        # The square root makes rare confusions visible, which is what a reader looks for.
        strength = math.sqrt(share)
        text = "" if len(names) > _MOST_CELLS_WITH_TEXT or share < 0.0005 else f"{100 * share:.1f}"
        bold = " strong" if strength > 0.6 else ""
        title = escape(f"{names[row]} → {names[column]}: {100 * share:.2f}%")
        cells.append(f'<td class="{kind}{bold}" style="--s:{strength:.2f}" title="{title}">{text}</td>')
    return f'<tr><th scope="row"><span>{row}</span> {escape(names[row])}</th>{"".join(cells)}</tr>'


def _largest_confusions(scores: Scores, shares: Float64[np.ndarray, "K K"]) -> str:
    wrong = shares * (1 - np.eye(len(shares)))
    order = np.argsort(wrong, axis=None)[::-1][:_MOST_NAMED_CONFUSIONS]
    names = scores.classes.names
    sentences = [
        f"<li><b>{escape(names[row])}</b> was taken for <b>{escape(names[column])}</b> in "
        f"{_percent(float(wrong[row, column]))} of its pixels.</li>"
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column] > 0
    ]
    return f"<ul>{''.join(sentences)}</ul>" if sentences else "<p>No pixel was given a wrong class.</p>"


def image_table(images: list[ImageScore]) -> str:
    """All images by score: where each lies, and a list that opens."""
    known = sorted((image for image in images if not math.isnan(image.mean_iou)), key=lambda image: image.mean_iou)
    unknown = [image for image in images if math.isnan(image.mean_iou)]
    listed = [*known, *unknown][:_MOST_LISTED_IMAGES]
    if not listed:
        return ""
    marks = "".join(f'<path d="M{4 + 592 * image.mean_iou:.1f} 4V28"/>' for image in known[:: 1 + len(known) // 2000])
    scale = "".join(f'<text class="tick" x="{4 + 592 * at / 4}" y="44">{number(at / 4)}</text>' for at in range(5))
    rows = "".join(
        f"<tr><td>{escape(image.name)}</td><td>{_score(image.mean_iou)}</td><td>{_score(image.pixel_accuracy)}</td></tr>"
        for image in listed
    )
    cut = (
        f"The {len(listed)} lowest of {len(images)} images" if len(listed) < len(images) else "All images, lowest first"
    )
    return (
        '<section id="images"><h2>Single images</h2><p class="note">mIoU of each image, one mark an image; the mean of '
        "these marks is not the score above, which counts all pixels of the set together.</p>"
        f'<svg class="strip" viewBox="-8 0 616 50" role="img" aria-label="mIoU of each image">'
        f'<path class="grid" d="M4 30H596"/><g class="marks">{marks}</g>{scale}</svg>'
        f'<details><summary>{cut}</summary><div class="scroll"><table><thead><tr><th scope="col">Image</th>'
        '<th scope="col">mIoU</th><th scope="col">Pixel accuracy</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details></section>"
    )
