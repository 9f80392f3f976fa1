"""Writes `docs/parts.md`: every loss, metric, optimizer, schedule, transform and method with its arguments.

Run it after one of them changed: python docs/make_parts.py
"""

import inspect
import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from segwright import parts

PAGE_FILE = Path(__file__).with_name("parts.md")

KINDS = {
    "loss": (
        "Losses",
        "`loss=cross_entropy+dice loss.dice.weight=0.5` adds several; each takes a `weight`. All of them take any "
        "number of spatial axes unless they say otherwise, and leave void pixels out.",
    ),
    "metric": (
        "Metrics",
        "`segwright evaluate RUN DATA --metrics boundary_iou,surface surface.tolerance=3` adds them to the scores; "
        "`confusion` is always there. Every score comes with a 95 % bootstrap interval over images.",
    ),
    "optimizer": ("Optimizers", "`optimizer=sgd optimizer.lr=0.01`; without a rate planning chooses one."),
    "schedule": (
        "Schedules",
        "`schedule=cosine schedule.warmup=0.05`; shares of the whole run, however it is limited.",
    ),
    "transform": ("Transforms", "`transform.scale=[0.5,2]`; what is `None` is decided by the data."),
    "method": ("Methods", "`method.auxiliary_weight=0.2`."),
}


def make_page() -> str:
    """The page as Markdown."""
    lines = ["# Parts of a recipe", "", "Written by `python docs/make_parts.py` from the code.", ""]
    for kind, (title, usage) in KINDS.items():
        lines += [f"## {title}", "", usage, ""]
        for name in parts.list_parts(kind):
            lines += make_section(kind, name)
    return "\n".join(lines).rstrip() + "\n"


def make_section(kind: str, name: str) -> list[str]:
    """What the page says of one part."""
    made = parts.constructor(kind, name)
    summary, described, source = read_docstring(inspect.getdoc(made) or "")
    lines = [f"### {name}", "", summary, ""]
    for key, field in parts.arguments_model(kind, name).model_fields.items():
        default = "" if field.default is PydanticUndefined else f" = {field.default!r}"
        meaning = f": {described[key]}" if key in described else ""
        lines.append(f"- `{key}{default}`{meaning}")
    if lines[-1]:
        lines.append("")
    return [*lines, source, ""] if source else lines


def read_docstring(text: str) -> tuple[str, dict[str, str], str]:
    """First paragraph, meaning of each argument, and source."""
    paragraphs = text.split("\n\n")
    sections = {part.partition(":")[0]: part for part in paragraphs if re.match(r"(Args|Source):", part)}
    described, key = {}, ""
    for line in sections.get("Args", "").splitlines()[1:]:
        found = re.match(r" {4}(\w+): (.*)", line)
        key = found[1] if found else key
        described[key] = found[2] if found else f"{described[key]} {line.strip()}"
    source = " ".join(sections.get("Source", "").split())
    return " ".join(paragraphs[0].split()), described, source


if __name__ == "__main__":
    PAGE_FILE.write_text(make_page(), encoding="utf-8")
