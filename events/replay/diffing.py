"""What differs between two states, place by place. Pure, and the same whatever order a map was filled in.

Must not know what any state means.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]
"""What JSON can say."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One place that differs. `path` is dotted (`releases.2.spec.config.KEY`, `routes.0.host`); a key that holds a dot
    stands in quotes. `kind`: added, removed or changed; the side that is not there is None."""

    path: str
    kind: str
    before: Plain = None
    after: Plain = None


def to_plain(value: object) -> Plain:
    """A struct as JSON has it: keys are text, enums their values."""
    plain: Plain = msgspec.json.decode(msgspec.json.encode(value))
    return plain


def diff(before: object, after: object) -> list[Change]:
    """The places at which two states (structs or plain values) differ, by path.

    Lists are compared place by place; what only one of them has was added or removed as a whole.
    """
    return list(_compare("", to_plain(before), to_plain(after)))


def _compare(path: str, before: Plain, after: Plain) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _compare_maps(path, before, after)
    elif _is_list(before) and _is_list(after):
        yield from _compare_maps(path, _indexed(before), _indexed(after))
    elif before != after or type(before) is not type(after):
        yield Change(path=path, kind="changed", before=before, after=after)


def _compare_maps(path: str, before: Mapping[str, Plain], after: Mapping[str, Plain]) -> Iterator[Change]:
    for key in sorted(before.keys() | after.keys(), key=_place):
        place = f"{path}.{_shown(key)}" if path else _shown(key)
        if key not in before:
            yield Change(path=place, kind="added", after=after[key])
        elif key not in after:
            yield Change(path=place, kind="removed", before=before[key])
        else:
            yield from _compare(place, before[key], after[key])


def _is_list(value: Plain) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _indexed(value: Plain) -> Mapping[str, Plain]:
    return {str(i): item for i, item in enumerate(value)} if isinstance(value, Sequence) else {}


def _place(key: str) -> tuple[int, int, str]:
    """Numbers by value and before words, so that release 10 comes after release 9."""
    return (0, int(key), key) if key.isascii() and key.isdecimal() else (1, 0, key)


def _shown(key: str) -> str:
    return f'"{key}"' if "." in key or key == "" else key
