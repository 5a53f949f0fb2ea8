"""Histories as released versions wrote them: how they are kept, read, and what they fold to.

A directory `histories/vN` holds a JSON Lines file of records for each kind of stream (bodies as the very bytes that
were stored, in base64) and `states.json`: what each stream's records fold to. Knows nothing of how one is made.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from events.log.records import EventRecord
from events.model.registry import fold, kind_of

HISTORIES = Path(__file__).parent / "histories"
STATES = "states.json"
Plain = object


def versions() -> list[Path]:
    """The recorded versions, oldest first."""
    return sorted((path for path in HISTORIES.glob("v*") if path.is_dir()), key=lambda path: int(path.name[1:]))


def read_history(directory: Path) -> dict[str, list[EventRecord]]:
    """Each stream's records, in order."""
    streams: dict[str, list[EventRecord]] = {}
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            fields = json.loads(line)
            body = msgspec.Raw(base64.b64decode(fields.pop("body")))
            record = EventRecord(**fields, body=body)
            streams.setdefault(record.stream, []).append(record)
    return streams


def write_history(directory: Path, records: Iterable[EventRecord]) -> None:
    """Keep `records` for ever. Raises FileExistsError: what was recorded once is never changed."""
    directory.mkdir()
    kinds: dict[str, list[str]] = {}
    for record in records:
        fields = {name: getattr(record, name) for name in EventRecord.__struct_fields__ if name != "body"}
        fields["body"] = base64.b64encode(bytes(record.body)).decode()
        kinds.setdefault(kind_of(record.stream), []).append(json.dumps(fields))
    for kind, lines in kinds.items():
        (directory / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
    write_states(directory)


def write_states(directory: Path) -> None:
    """Note what the recorded streams fold to now."""
    text = json.dumps(states_of(read_history(directory)), indent=1, sort_keys=True, ensure_ascii=False)
    (directory / STATES).write_text(text + "\n")


def recorded_states(directory: Path) -> dict[str, Plain]:
    """What each stream folded to when that was noted."""
    found: dict[str, Plain] = json.loads((directory / STATES).read_text())
    return found


def states_of(streams: Mapping[str, list[EventRecord]]) -> dict[str, Plain]:
    """What each stream folds to with the present code, as JSON has it."""
    folded = {stream: shown(fold(stream, records)) for stream, records in streams.items()}
    plain: dict[str, Plain] = json.loads(json.dumps(folded))
    return plain


def shown(value: object) -> Plain:
    """A state in plain values, fields that have their default left out: a field added later changes nothing here."""
    if isinstance(value, msgspec.Struct):
        return {name: shown(held) for name, held in _told(value)}
    if isinstance(value, Mapping):
        return {str(key): shown(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(held) for held in value]
    return msgspec.to_builtins(value)


def _told(value: msgspec.Struct) -> Iterator[tuple[str, object]]:
    for field in msgspec.structs.fields(value):
        held = getattr(value, field.name)
        factory = field.default_factory
        default = factory() if factory is not msgspec.NODEFAULT else field.default
        if held != default:
            yield field.name, held
