"""The names that people give to places in a state, as paths into it. Pure.

Must not know what any field means; which there are it takes from the state's own type.
"""

import difflib

import msgspec

from events.model.registry import initial_state
from events.replay.diffing import Path, split_path
from events.replay.errors import NoSuchField


def resolve_field(stream: str, field: str) -> Path:
    """The path that `field` names in a state of the stream's kind; what a component wants (`config.KEY`, `scale`) may
    be named without `spec.`. Raises NoSuchField."""
    path = split_path(field)
    fields = _field_names(initial_state(stream))
    wanted = _field_names(getattr(initial_state(stream), "spec", None))
    if path and path[0] not in fields and path[0] in wanted:
        return ("spec", *path)
    if not path or path[0] not in fields:
        known = sorted({*fields, *wanted})
        near = difflib.get_close_matches(path[0] if path else "", known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise NoSuchField(f"expected a field of {stream}, one of {', '.join(known)}; found {field[:80]!r}{hint}")
    return path


def _field_names(state: object) -> tuple[str, ...]:
    return state.__struct_fields__ if isinstance(state, msgspec.Struct) else ()
