"""Find out how masks store classes, from every value in them; what is not certain is an error, not a guess."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segwright.data.colors import Color, default_colors
from segwright.data.description import Description
from segwright.data.encoding import MaskEncoding, StoredValue, code_of, value_of
from segwright.data.measures import MaskFacts
from segwright.types import IGNORE_LABEL, Classes

_CLOSEST_GRAY_LEVELS = 10
"""Gray levels that stand for classes are this far apart or more; closer values are indices."""
_LOSSY_DISTANCE = 16
"""JPEG moves values by about this much; masks with closer values cannot be told from damage."""
_MOST_EDGE_VALUES = 2
"""One or two thin values may be a contour class; more are smoothing."""

_MOST_INDICES = 32
"""Up to so many values that count up from 0 are class indices even if some are thin."""
_MOST_VALUES_IN_A_MASK = 100
"""Without names, a mask with more values is taken for a picture; one image hardly shows a hundred classes."""


@dataclass(frozen=True)
class Detection:
    """What the masks say.

    Attributes:
        encoding: How classes are stored; None if `error` says why not.
        classes: Names and colors.
        notes: Sentences on what was concluded that a person may want to check.
        error: Why the masks cannot be understood, "" if they are.
        rejected: Reason by position of masks that cannot be used.
    """

    encoding: MaskEncoding | None = None
    classes: Classes | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    rejected: dict[int, str] = field(default_factory=dict)


def detect_encoding(masks: Sequence[MaskFacts], description: Description) -> Detection:
    """Conclude the encoding from all masks of a data set and from its description.

    Args:
        masks: Every mask that could be read, at least one.
        description: What dataset.yaml says, possibly nothing.
    """
    rejected = _reject_lossy(masks) | _reject_minority_kind(masks)
    is_color = _are_colors(masks)
    if not is_color:
        rejected |= _reject_other_palettes(masks, rejected)
    if not (description.colors if is_color else description.names):
        rejected = _reject_pictures(masks) | rejected
        rejected |= _reject_smoothed(masks, rejected)
    usable = [mask for position, mask in enumerate(masks) if position not in rejected]
    if not usable:
        return Detection(error="no mask can be used; correct the masks listed below", rejected=rejected)
    try:
        encoding, classes, notes = (
            _detect_colors(usable, description) if is_color else _detect_values(usable, description)
        )
    except ValueError as error:
        return Detection(error=str(error), rejected=rejected)
    return Detection(encoding, classes, tuple(notes + _thin_value_notes(usable, encoding, description)), "", rejected)


def _are_colors(masks: Sequence[MaskFacts]) -> bool:
    num_rgb = sum(mask.in_rgb for mask in masks)
    # Nothing but 0 is black either way, so such masks have no say.
    num_single = sum(not mask.in_rgb and bool(mask.codes.any()) for mask in masks)
    return any(mask.is_color for mask in masks) and num_rgb > num_single


def _reject_minority_kind(masks: Sequence[MaskFacts]) -> dict[int, str]:
    if _are_colors(masks):
        reason = "the mask holds one value a pixel, but most are in color; save it the same way as the others"
        return {i: reason for i, mask in enumerate(masks) if not mask.in_rgb and mask.codes.any()}
    reason = "the mask is in color, but most hold one value a pixel; save it the same way as the others"
    return {i: reason for i, mask in enumerate(masks) if mask.is_color}


def _reject_lossy(masks: Sequence[MaskFacts]) -> dict[int, str]:
    rejected = {}
    for position, mask in enumerate(masks):
        if mask.is_lossy and (mask.num_values > 64 or _smallest_distance(mask) < _LOSSY_DISTANCE):
            rejected[position] = (
                f"the mask is a JPEG or lossy WebP with {mask.num_values:,} different values, because the format blurs "
                "labels; export it again from the source as PNG"
            )
    return rejected


def _smallest_distance(mask: MaskFacts) -> int:
    values = (
        np.array([value_of(int(code), is_color=True) for code in mask.codes]) if mask.is_color else mask.codes[:, None]
    )
    distances = np.abs(values[:, None].astype(np.int64) - values[None]).max(axis=2)  # V V
    np.fill_diagonal(distances, 65535)
    return int(distances.min())


def _reject_other_palettes(masks: Sequence[MaskFacts], rejected: dict[int, str]) -> dict[int, str]:
    """Masks in which an index has another color than in most masks, as after quantizing each file by itself."""
    votes: dict[int, Counter[Color]] = {}
    for position, mask in enumerate(masks):
        if mask.palette is not None and position not in rejected:
            for code in mask.codes.tolist():
                votes.setdefault(code, Counter())[mask.palette[code]] += 1
    usual = {code: counter.most_common(1)[0][0] for code, counter in votes.items()}
    others = {}
    for position, mask in enumerate(masks):
        codes = [] if mask.palette is None else mask.codes.tolist()
        odd = [
            code for code in codes if mask.palette is not None and code in usual and mask.palette[code] != usual[code]
        ]
        if odd:
            others[position] = (
                f"index {odd[0]} of the palette is another color than in most masks, so the same index "
                "means another class; save all masks with one palette, or as RGB"
            )
    return others


def _reject_pictures(masks: Sequence[MaskFacts]) -> dict[int, str]:
    return {
        position: f"{mask.num_values:,} different values are more than the classes of one mask, as in a photograph, in "
        "numbered objects or after blurring; save one value a class, or name the classes in dataset.yaml"
        for position, mask in enumerate(masks)
        if mask.num_values > _MOST_VALUES_IN_A_MASK
    }


def _reject_smoothed(masks: Sequence[MaskFacts], rejected: dict[int, str]) -> dict[int, str]:
    edge = set(_thin_values([mask for position, mask in enumerate(masks) if position not in rejected]))
    if len(edge) <= _MOST_EDGE_VALUES:
        return {}
    smoothed = {}
    for position, mask in enumerate(masks):
        hits = [i for i, code in enumerate(mask.codes.tolist()) if code in edge]
        if hits and position not in rejected:
            share = mask.totals[hits].sum() / mask.totals.sum()
            example = ", ".join(str(value_of(int(mask.codes[i]), is_color=mask.is_color)) for i in hits[:3])
            smoothed[position] = (
                f"{len(hits):,} values such as {example} cover {share:.2%} of the mask and lie only along edges, as "
                "smoothing leaves them; export it without anti-aliasing and resize it with nearest neighbor, "
                "or list the values in dataset.yaml if they are classes"
            )
    return smoothed


def _thin_values(masks: Sequence[MaskFacts]) -> list[int]:
    """Values that fill no 3 x 3 square in any mask and cover less than 5 % of the pixels.

    None if the values count up from 0 without a gap, as few classes do and smoothed values do not.
    """
    totals: Counter[int] = Counter()
    solid: set[int] = set()
    for mask in masks:
        totals.update(dict(zip(mask.codes.tolist(), mask.totals.tolist(), strict=True)))
        solid.update(mask.codes[mask.is_solid].tolist())
    counted = [code for code in totals if code != IGNORE_LABEL]
    if not any(mask.is_color for mask in masks) and set(counted) == set(range(min(len(counted), _MOST_INDICES))):
        return []
    num_pixels = sum(totals.values())
    return sorted(code for code, count in totals.items() if code not in solid and count < 0.05 * num_pixels)


def _thin_value_notes(masks: Sequence[MaskFacts], encoding: MaskEncoding, description: Description) -> list[str]:
    if description.names or description.colors:
        return []
    thin = [value_of(code, is_color=encoding.kind == "color") for code in _thin_values(masks)]
    return [
        f"{value} is read as a class, but it is nowhere wider than two pixels; "
        "if it comes from smoothing, export the masks without it"
        for value in thin
        if value in encoding.values
    ]


def _detect_values(masks: Sequence[MaskFacts], description: Description) -> tuple[MaskEncoding, Classes, list[str]]:
    seen = {int(code) for mask in masks for code in mask.codes}
    is_explained = 255 in description.ignore or 255 in description.names
    is_mixed = {1, 255} <= seen <= {0, 1, 255} and not any({1, 255} <= set(mask.codes.tolist()) for mask in masks)
    if is_mixed and not is_explained:
        raise ValueError(
            "some masks store the foreground as 1 and others as 255; save all with the same value, "
            "or write ignore: 255 in dataset.yaml if 255 is void"
        )
    keys = list(description.names or description.colors)
    if keys:
        encoding, notes = _named_values(seen, keys, description)
    else:
        encoding, notes = _nameless_values(seen, description)
    return encoding, _classes(encoding, description, _palette(masks)), notes


def _named_values(seen: set[int], keys: list[int], description: Description) -> tuple[MaskEncoding, list[str]]:
    kept = [key for key in keys if key not in description.ignore]
    if len(kept) < 2:
        raise ValueError(
            f"{description.file} names {len(kept)} class, but two or more are needed; name the background too"
        )
    rest = sorted(seen - set(description.ignore))
    if 255 in rest and set(rest) <= {0, 255} and 255 not in kept:
        if kept != [0, 1]:
            raise ValueError(
                f"{description.file} names {len(kept)} classes, but the masks hold only "
                f"{' and '.join(map(str, rest))}; "
                "name the two classes, or write ignore: 255 if 255 is void"
            )
        return _single(rest=[0, 255], void=description.ignore), ["the masks store the second class as 255"]
    are_levels = len(rest) == len(kept) and min(np.diff(rest), default=0) >= _CLOSEST_GRAY_LEVELS
    if are_levels and not set(rest) <= {*kept, 255} and kept == list(range(len(kept))):
        levels = ", ".join(map(str, rest))
        return _single(rest, description.ignore), [f"gray levels {levels} are taken as the named classes in this order"]
    return _single(kept, (*description.ignore, 255)), []


def _nameless_values(seen: set[int], description: Description) -> tuple[MaskEncoding, list[str]]:
    rest = sorted(seen - set(description.ignore))
    void, notes = description.ignore, []
    others = [value for value in rest if value != 255]
    if len(others) > 1 and 255 not in void and others[-1] <= min(4 * len(others), 254):
        if 255 in rest:
            notes.append(
                "255 is read as void, because the other values are small; name it in dataset.yaml if it is a class"
            )
        rest, void = others, (*void, 255)
    if rest == [255]:
        rest = [0, 255]
    if len(rest) > IGNORE_LABEL:
        raise ValueError(
            f"the masks hold {len(rest):,} different values, but at most {IGNORE_LABEL} classes are read; "
            "if they number objects, save the class of each object instead"
        )
    if len(rest) < 2:
        only = f"only the value {rest[0]}" if rest else "only void"
        raise ValueError(
            f"the masks hold {only}, but two or more classes are needed; check that the masks are complete"
        )
    if rest != list(range(len(rest))) and rest != [0, 255]:
        pairs = ", ".join(f"{value} → {label}" for label, value in enumerate(rest[:8])) + (
            ", …" if len(rest) > 8 else ""
        )
        notes.append(
            f"the stored values are not 0 to {len(rest) - 1} and are mapped to classes in order ({pairs}); "
            "name them in dataset.yaml if a class is missing"
        )
    return _single(rest, void), notes


def _single(rest: Sequence[int], void: Sequence[int]) -> MaskEncoding:
    values = tuple(rest)
    kept_void = tuple(sorted({value for value in void if value not in values}))
    return MaskEncoding("index" if values == tuple(range(len(values))) else "gray", values, kept_void)


def _detect_colors(masks: Sequence[MaskFacts], description: Description) -> tuple[MaskEncoding, Classes, list[str]]:
    if description.colors:
        void = {color for key, color in description.colors.items() if key in description.ignore}
        values = tuple(color for key, color in description.colors.items() if key not in description.ignore)
        void |= set(description.ignore_colors)
        encoding = MaskEncoding("color", values, tuple(sorted(void)))
        return encoding, _classes(encoding, description, None), []
    if description.names:
        raise ValueError(
            f"{description.file} names {len(description.names)} classes, but the masks are in color and no colors "
            "say which is which; add colors, one RGB triple a name"
        )
    codes = {int(code) * (1 if mask.is_color else 0x010101) for mask in masks for code in mask.codes}
    codes -= {code_of(color) for color in description.ignore_colors}
    if not 2 <= len(codes) <= IGNORE_LABEL:
        raise ValueError(
            f"the masks hold {len(codes):,} different colors, but 2 to {IGNORE_LABEL} are read as classes; "
            "list names and colors in dataset.yaml"
        )
    values = tuple((code >> 16, code >> 8 & 255, code & 255) for code in sorted(codes))
    encoding = MaskEncoding("color", values, description.ignore_colors)
    return encoding, _classes(encoding, description, None), ["the classes are the colors in the masks, in sorted order"]


def _palette(masks: Sequence[MaskFacts]) -> dict[int, Color] | None:
    colors = {int(code): mask.palette[int(code)] for mask in masks if mask.palette for code in mask.codes}
    return colors or None


def _classes(encoding: MaskEncoding, description: Description, palette: dict[int, Color] | None) -> Classes:
    keys = [key for key in description.names or description.colors if key not in description.ignore]
    num_classes = len(encoding.values)
    if description.names:
        names = tuple(description.names[key] for key in keys)
    elif num_classes == 2 and code_of(encoding.values[0]) == 0:
        names = ("background", "foreground")
    else:
        names = tuple(f"class_{label}" for label in range(num_classes))
    return Classes(names, _class_colors(encoding.values, keys, description, palette))


def _class_colors(
    values: Sequence[StoredValue], keys: list[int], description: Description, palette: dict[int, Color] | None
) -> tuple[Color, ...]:
    if description.colors:
        return tuple(description.colors[key] for key in keys)
    colors = [value for value in values if isinstance(value, tuple)]
    if palette is not None:
        # A class that the masks never show has no known color.
        colors = [palette[value] for value in values if isinstance(value, int) and value in palette]
    if len(colors) == len(values) == len(set(colors)):
        return tuple(colors)
    return default_colors(len(values))
