"""What planning decided, in the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.planning.plan import Plan
from segwright.planning.probe import FEW_PASSES, Pace


def render_plan(plan: Plan, pace: Pace) -> RenderableType:
    """Each choice with its reason, what the machine forced, and how far the time will reach."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("choice", "value", "because"):
        table.add_column(column, overflow="fold")
    for choice in plan.choices:
        table.add_row(Text(choice.key, style="bold"), Text(_say(choice.value)), Text(choice.reason, style="dim"))
    notes = [Text(f"Note: {note}", style="yellow") for note in plan.notes]
    style = "yellow" if pace.passes < FEW_PASSES else ""
    return Group(table, Text(), *notes, Text(pace.describe(), style=style))


def _say(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(key if found == {} else f"{found}" for key, found in value.items())
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
