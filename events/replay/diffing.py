"""What differs between two states, place by place. Pure, and the same whatever order a map was filled in.

Must not know what any state means.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

import msgspec

Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]
"""What JSON can say."""

Path = tuple[str, ...]
"""The steps into a state: names of fields, keys of maps, places in lists."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One place that differs. `path` is dotted (`releases.2.spec.config.KEY`, `routes.0.host`); a key that holds a dot
    stands in quotes. `kind`: added, removed or changed; the side that is not there is None."""

    path: str
    kind: str
    before: Plain = None
    after: Plain = None


class Missing(Enum):
    """Stands for nothing where None is something."""

    MISSING = "missing"


MISSING = Missing.MISSING


def to_plain(value: object) -> Plain:
    """A struct as JSON has it: keys are text, enums their values."""
    plain: Plain = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def diff(before: object, after: object) -> list[Change]:
    """The places at which two states (structs or plain values) differ, by path.

    Lists are compared place by place; what only one of them has was added or removed as a whole. What both states
    share in memory is not looked at: a fold that changes little is compared in little time.
    """
    return list(_compare("", before, after))


def lookup(state: object, path: Path) -> object:
    """What stands at `path` of a state (a struct or a plain value), as it is; MISSING where there is nothing."""
    here = state
    for step in path:
        if isinstance(here, msgspec.Struct):
            here = getattr(here, step, MISSING) if step in here.__struct_fields__ else MISSING
        elif isinstance(here, Mapping):
            # JSON's keys are text; a state's may be numbers.
            number = int(step) if step.isascii() and step.isdecimal() else -1
            here = here.get(step, here.get(number, MISSING))
        elif isinstance(here, (list, tuple)) and step.isascii() and step.isdecimal():
            here = here[int(step)] if int(step) < len(here) else MISSING
        else:
            return MISSING
    return here


def split_path(text: str) -> Path:
    """`a."x.y".0` → ("a", "x.y", "0"): what `Change.path` and people write, taken apart."""
    steps: list[str] = []
    rest = text
    while rest:
        if rest.startswith('"') and (end := rest.find('"', 1)) > 0 and rest[end + 1 : end + 2] in ("", "."):
            step, rest = rest[1:end], rest[end + 2 :]
        else:
            step, _, rest = rest.partition(".")
        steps.append(step)
    return tuple(steps)


def join_path(path: Path) -> str:
    """The steps as one text, which `split_path` takes apart again."""
    return ".".join(map(_shown, path))


def _compare(path: str, before: object, after: object) -> Iterator[Change]:
    if before is after:
        return
    if _is_open(before) and type(before) is type(after):
        yield from _compare_maps(path, _fields(before), _fields(after))
        return
    if isinstance(before, msgspec.Struct) or isinstance(after, msgspec.Struct):
        before, after = to_plain(before), to_plain(after)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _compare_maps(path, _keyed(before), _keyed(after))
    elif _is_list(before) and _is_list(after):
        yield from _compare_maps(path, _indexed(before), _indexed(after))
    elif before != after or _kind(before) is not _kind(after):
        yield Change(path=path, kind="changed", before=to_plain(before), after=to_plain(after))


def _compare_maps(path: str, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[Change]:
    for key in sorted(before.keys() | after.keys(), key=_place):
        place = f"{path}.{_shown(key)}" if path else _shown(key)
        if key not in before:
            yield Change(path=place, kind="added", after=to_plain(after[key]))
        elif key not in after:
            yield Change(path=place, kind="removed", before=to_plain(before[key]))
        else:
            yield from _compare(place, before[key], after[key])


def _is_open(value: object) -> bool:
    """A struct whose fields are exactly the keys that JSON shows of it."""
    if not isinstance(value, msgspec.Struct):
        return False
    config = value.__struct_config__
    return not (config.omit_defaults or config.array_like or config.tag)


def _fields(value: object) -> Mapping[str, object]:
    return {name: getattr(value, name) for name in getattr(value, "__struct_fields__", ())}


def _keyed(value: Mapping[object, object]) -> Mapping[str, object]:
    return {str(key): item for key, item in value.items()}


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _kind(value: object) -> type:
    # True == 1 in Python and not in JSON; an enum's value is text there.
    return str if isinstance(value, str) else type(value)


def _indexed(value: object) -> Mapping[str, object]:
    return {str(i): item for i, item in enumerate(value)} if isinstance(value, Sequence) else {}


def _place(key: str) -> tuple[int, int, str]:
    """Numbers by value and before words, so that release 10 comes after release 9."""
    return (0, int(key), key) if key.isascii() and key.isdecimal() else (1, 0, key)


def _shown(key: str) -> str:
    return f'"{key}"' if "." in key or key == "" else key
