"""What the debugger found, as lines for people: events, their causes, differences with who made them.

Knows the documents of the API; nothing of where they come from.
"""

from api.cli.document import Document
from api.cli.history import event_text
from api.cli.output import clock, styled
from api.cli.safe import visible, visible_json

_SHOWN_CHARACTERS = 100  # of one side of a difference; --json shows all of it
_MARKS = {"added": ("+", "good"), "removed": ("-", "bad"), "changed": ("~", "warn"), "reordered": ("%", "warn")}


def value_text(value: object) -> str:
    """A value as JSON, cut where it is long."""
    text = "(none)" if value is None else visible_json(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def change_lines(changes: list[Document], indent: str = "  ") -> list[str]:
    """One line for each difference; `+` added, `-` removed, `~` changed."""
    return [indent + change_text(change) for change in changes]


def change_text(change: Document) -> str:
    """`~ path: before → after`."""
    mark, style = _MARKS.get(change.text("kind"), ("", "name"))
    before, after = value_text(change.raw.get("before")), value_text(change.raw.get("after"))
    path = visible(change.text("path")) or "(the whole state)"
    head = styled(f"{mark} {path}".strip(), style)
    if mark == "+":
        return f"{head}: {styled(after, 'good')}"
    if mark == "-":
        return f"{head}: {styled(before, 'bad')}"
    return f"{head}: {styled(before, 'bad')} → {styled(after, 'good')}"


def by_text(by: Document) -> str:
    """Which event it was, when, and in whose name and why."""
    who = by.text("asked_by") or by.text("actor")
    why = by.text("asked_reason") or by.text("reason")
    words = f" “{visible(why)}”" if why else ""
    # What belongs to no operation carries its own command's id in that place.
    name = by.text("operation") if by.text("operation") != by.text("command_id") else ""
    operation = f", operation {visible(name)}" if name else ""
    return (
        f"by {visible(by.text('type'))} v{by.whole('version')} {by.text('position')} {clock(by.text('at'))}, "
        f"asked by {visible(who)}{words}{operation}"
    )


def cause_text(cause: Document) -> str:
    """A link of the chain behind an event."""
    event = cause.inner("event")
    told = (
        f"{visible(event.text('type'))} v{event.whole('version')} of {visible(event.text('stream'))} "
        f"{event.text('position')}"
    )
    if cause.text("kind") == "event":
        return f"{cause.text('how')} {told}"
    who = cause.text("actor") or event.text("actor")
    why = cause.text("reason") or event.text("reason")
    words = f" “{visible(why)}”" if why else ""
    by = f" by {visible(who)}{words}" if who else ""
    begun = f", begun with {told}" if event else ""
    return f"{cause.text('how')} {cause.text('kind')} {visible(cause.text('id'))}{by}{begun}"


def step_lines(step: Document, *, states: bool = False) -> list[str]:
    """An event, what led to it and what it changed; with `states` the states before and after as well."""
    lines = [event_text(step.inner("event"))]
    lines += [styled(f"    {cause_text(cause)}", "dim") for cause in step.items("causes")]
    if states:
        lines += [styled("  before:", "dim"), *state_lines(step, "before"), styled("  after:", "dim")]
        lines += state_lines(step, "after")
    return lines + change_lines(step.items("changes"))


def state_lines(step: Document, side: str) -> list[str]:
    """A whole state, indented."""
    return ["  " + line for line in visible_json(step.raw.get(side), indent=2).splitlines()]
