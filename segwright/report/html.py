"""The page of a run: one HTML file that needs nothing else, now or in ten years."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from segwright.report import facts, making, results
from segwright.report.content import Report

_STYLE = Path(__file__).with_name("page.css")


def write_report(path: Path, report: Report) -> None:
    """Writes the page; no script, no font and no picture comes from outside of it.

    Args:
        path: The HTML file; its folder is created if missing.
        report: What the page says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(report), encoding="utf-8")


def page(report: Report) -> str:
    """The whole page as text."""
    body = (
        results.headline(report),
        results.examples(report),
        results.class_table(report.scores),
        results.confusion_table(report.scores),
        results.image_table(list(report.images)),
        making.curves(report),
        making.speed(report.timing),
        making.recipe(report.recipe),
        facts.data(report.data),
        facts.environment(report.environment),
        making.usage(report.segmenter),
    )
    return frame(report.title, body)


def frame(title: str, body: Iterable[str]) -> str:
    """A page with our style from its parts; empty ones are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)} – Segwright</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n"
        f"</head>\n<body>\n<main>\n{chr(10).join(part for part in body if part)}\n</main>\n</body>\n</html>\n"
    )
