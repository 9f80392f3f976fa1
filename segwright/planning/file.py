"""A plan as a recipe file: plain YAML with the reasons as comments."""

from segwright.planning.plan import Plan


def plan_to_yaml(plan: Plan, heading: str) -> str:
    """The recipe of a plan, each decided value followed by its reason.

    Args:
        plan: From `complete`.
        heading: First lines, put as a comment.
    """
    reasons = {choice.key: choice.reason for choice in plan.choices}
    comments = [f"# {line}".rstrip() for line in (*heading.splitlines(), *(f"Note: {note}" for note in plan.notes))]
    lines, section = [], ""
    for line in plan.recipe.to_yaml().splitlines():
        key = line.strip().partition(":")[0]
        if not line.startswith((" ", "-")):
            section = key
        is_inside = line.startswith("  ") and not line.startswith("   ")
        reason = reasons.get(f"{section}.{key}" if is_inside else section if section == key else "")
        lines.append(f"{line}  # {reason}" if reason else line)
    return "\n".join([*comments, "", *lines, ""])
