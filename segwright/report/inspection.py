"""The tables that `segwright inspect` shows."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segwright.data.inspection import Inspection, Problem
from segwright.types import Classes

_SHOWN_PROBLEMS = 20
_SHOWN_CLASSES = 40
_BAR_WIDTH = 12


def render_inspection(inspection: Inspection) -> RenderableType:
    """What was understood, the classes, and the problems with their fixes, for 80 columns or more."""
    parts: list[RenderableType] = [_overview(inspection)]
    if inspection.dataset.classes is not None and inspection.dataset.splits:
        parts += ["", _class_table(inspection, inspection.dataset.classes)]
    parts += ["", _problem_list(inspection.problems)]
    return Group(*parts)


def _overview(inspection: Inspection) -> Table:
    dataset, statistics = inspection.dataset, inspection.statistics
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Data set", Text(str(dataset.root)))
    table.add_row("Layout", Text(dataset.layout))
    pairs = " · ".join(f"{split} {count:,}" for split, count in statistics.num_pairs.items())
    has_masks = any(pair.mask is not None for pairs in dataset.splits.values() for pair in pairs)
    table.add_row("Pairs" if has_masks or not dataset.splits else "Images", Text(pairs or "none that can be used"))
    if statistics.num_pairs:
        table.add_row("Images", Text(_image_sentence(inspection)))
        table.add_row("Pixel values", Text(_value_sentence(inspection)))
    if dataset.encoding is not None and dataset.classes is not None:
        table.add_row("Masks", Text(dataset.encoding.describe(dataset.classes)))
        if statistics.num_pairs:
            table.add_row("", Text(_mask_sentence(inspection)))
            table.add_row("Asymmetry", Text(_asymmetry_sentence(inspection)))
    for note in inspection.notes:
        table.add_row(Text("Note", style="bold yellow"), Text(note))
    return table


def _image_sentence(inspection: Inspection) -> str:
    statistics, channels = inspection.statistics, inspection.dataset.channels
    kinds = ", ".join(statistics.dtypes)
    (low_h, middle_h, high_h), (low_w, middle_w, high_w) = statistics.heights, statistics.widths
    size = f"all {high_h} × {high_w}"
    if (low_h, low_w) != (high_h, high_w):
        size = f"height {low_h} to {high_h} (median {middle_h:g}), width {low_w} to {high_w} (median {middle_w:g})"
    return f"{channels} channel{'s' if channels != 1 else ''}, {kinds}, {size} pixels"


def _value_sentence(inspection: Inspection) -> str:
    statistics = inspection.statistics
    moments = [
        f"{mean:.4g} ± {deviation:.3g}"
        for mean, deviation in zip(statistics.channel_means, statistics.channel_deviations, strict=True)
    ]
    shown = ", ".join(moments[:4]) + (", …" if len(moments) > 4 else "")
    return f"mean ± standard deviation: {shown}"


def _mask_sentence(inspection: Inspection) -> str:
    statistics, classes = inspection.statistics, inspection.dataset.classes
    parts = [f"{statistics.void_share:.1%} void", f"objects about {statistics.object_width:.0f} pixels wide"]
    if statistics.num_empty and classes is not None:
        parts.append(f"{statistics.num_empty:,} masks show only '{classes.names[0]}'")
    if statistics.is_imbalanced:
        present = [share for share in statistics.class_shares if share > 0]
        ratio = max(present) / min(present)
        shown = f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
        parts.append(f"imbalanced: the largest class has {shown} × the pixels of the smallest")
    return ", ".join(parts)


def _asymmetry_sentence(inspection: Inspection) -> str:
    statistics = inspection.statistics
    return (
        f"class shares differ by {statistics.vertical_asymmetry:.0%} between top and bottom, "
        f"by {statistics.horizontal_asymmetry:.0%} between left and right"
    )


def _class_table(inspection: Inspection, classes: Classes) -> Table:
    statistics = inspection.statistics
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("", justify="right", style="dim")
    table.add_column("Class", overflow="fold", max_width=32)
    table.add_column("Pixels", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for split in statistics.class_presence:
        table.add_column(f"In {split}", justify="right", no_wrap=True)
    largest = max(statistics.class_shares, default=0.0)
    for label, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True)):
        if label == _SHOWN_CLASSES:
            table.add_row("", Text(f"… and {len(classes) - label} more classes", style="dim"))
            break
        share = statistics.class_shares[label]
        swatch = Text("██ ", style=f"rgb({color[0]},{color[1]},{color[2]})") + Text(name, style="default")
        presence = [_percent(shares[label]) for shares in statistics.class_presence.values()]
        table.add_row(str(label), swatch, _percent(share), _bar(share, largest), *presence)
    return table


def _percent(share: float) -> Text:
    if share == 0:
        return Text("none", style="yellow")
    return Text("< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %")


def _bar(share: float, largest: float) -> Text:
    eighths = round(8 * _BAR_WIDTH * share / largest) if largest else 0
    full, rest = divmod(max(eighths, 1 if share else 0), 8)
    return Text("█" * full + ("" if rest == 0 else " ▏▎▍▌▋▊▉"[rest]), style="cyan")


def _problem_list(problems: Sequence[Problem]) -> RenderableType:
    if not problems:
        return Text("No problems found.", style="green")
    num_errors = sum(problem.severity == "error" for problem in problems)
    num_warnings = len(problems) - num_errors
    heading = Text(
        ", ".join(filter(None, [_count(num_errors, "error"), _count(num_warnings, "warning")])), style="bold"
    )
    if num_errors:
        heading += Text("; pairs with an error are left out", style="default")
    lines: list[RenderableType] = [heading]
    for problem in problems[:_SHOWN_PROBLEMS]:
        style = "red" if problem.severity == "error" else "yellow"
        file = "the data set" if problem.file == "." else problem.file
        lines.append(Text(f"{problem.severity:<8}", style=style) + Text(file, style="bold default"))
        lines.append(Padding(Text(problem.message), (0, 0, 0, 8)))
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(Text(f"… and {len(problems) - _SHOWN_PROBLEMS:,} more", style="dim"))
    return Group(*lines)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' if number > 1 else ''}" if number else ""
