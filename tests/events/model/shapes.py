"""What every event looks like as stored, in words that a diff can show: fields, types and the defaults left out.

The recorded shapes are what `test_evolution` holds the classes against; knows nothing of histories.
"""

import enum
import json
import types
import typing
from pathlib import Path

import msgspec

from events.model.base import Event
from events.model.registry import EVENT_TYPES

SHAPES = Path(__file__).parent / "histories" / "shapes.json"

_RECORD = "Record how it looks: python -m tests.events.model.record vN, N being the next number in histories/"

Shape = dict[str, str]
"""Field → its type, and ` = default` where it may be left out."""


class Recorded(msgspec.Struct, frozen=True):
    """One event's stored form. `parts`: the structs and enums that it is made of, by name."""

    schema_version: int
    fields: Shape
    parts: dict[str, Shape]


def shape_of(event: type[Event]) -> Recorded:
    """The stored form of a class as it is now."""
    parts: dict[str, Shape] = {}
    fields = _fields(event, parts)
    return Recorded(event.schema_version, fields, dict(sorted(parts.items())))


def present_shapes() -> dict[str, Recorded]:
    """Every event there is, by type."""
    return {name: shape_of(event) for name, event in sorted(EVENT_TYPES.items())}


def recorded_shapes() -> dict[str, Recorded]:
    """As they were when the newest history was recorded."""
    return msgspec.json.decode(SHAPES.read_bytes(), type=dict[str, Recorded])


def write_shapes() -> None:
    text = json.dumps(msgspec.to_builtins(present_shapes()), indent=1, sort_keys=True, ensure_ascii=False)
    SHAPES.write_text(text + "\n")


def difference(before: Recorded, after: Recorded) -> list[str]:
    """What differs, one line each; empty when nothing does."""
    told = _differing("", before.fields, after.fields)
    for part in sorted(before.parts.keys() | after.parts.keys()):
        told += _differing(f"{part}.", before.parts.get(part, {}), after.parts.get(part, {}))
    return told


def complaints(recorded: dict[str, Recorded], present: dict[str, Recorded]) -> list[str]:
    """Where classes changed in a way that events already stored would not survive, each with what to do about it."""
    told = [f"{name} was removed, and logs hold it: keep its class and its apply" for name in recorded.keys() - present]
    for name, now in present.items():
        before = recorded.get(name)
        if before is None:
            told.append(f"{name} is new. {_RECORD}")
            continue
        changed = difference(before, now)
        if changed and now.schema_version <= before.schema_version:
            number = before.schema_version
            told.append(
                f"{name} changed its shape and not its version:\n    " + "\n    ".join(changed) + "\n  Set "
                f"`schema_version: ClassVar[int] = {number + 1}` in it, write the static method `upcast_{number}` that "
                f"turns the fields of version {number} into those of {number + 1} (docs/events.md), then: {_RECORD}"
            )
        elif changed or now.schema_version != before.schema_version:
            told.append(f"{name} has a new schema version. {_RECORD}")
    return sorted(told)


def _differing(prefix: str, before: Shape, after: Shape) -> list[str]:
    keys = sorted(before.keys() | after.keys())
    gone = "(none)"
    return [f"{prefix}{k}: {before.get(k, gone)} → {after.get(k, gone)}" for k in keys if before.get(k) != after.get(k)]


def _fields(struct: type[msgspec.Struct], parts: dict[str, Shape]) -> Shape:
    config = struct.__struct_config__
    shape = {"(stored as)": "array"} if config.array_like else {}
    if config.tag is not None:
        shape["(tag)"] = str(config.tag)
    hints = typing.get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        default = ""
        if field.default is not msgspec.NODEFAULT:
            default = f" = {field.default!r}"
        elif field.default_factory is not msgspec.NODEFAULT:
            default = f" = {field.default_factory()!r}"
        shape[field.encode_name] = _type(hints[field.name], parts) + default
    return shape


def _type(hint: object, parts: dict[str, Shape]) -> str:
    arguments = [_type(argument, parts) for argument in typing.get_args(hint)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(sorted(arguments))
    origin = typing.get_origin(hint)
    if origin is not None:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(arguments)}]"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if hint.__name__ not in parts:
            parts[hint.__name__] = {}
            parts[hint.__name__] = _fields(hint, parts)
        return hint.__name__
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        parts[hint.__name__] = {str(member.value): "" for member in hint}
        return hint.__name__
    return "..." if hint is Ellipsis else "None" if hint is type(None) else getattr(hint, "__name__", str(hint))
