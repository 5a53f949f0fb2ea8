"""Reading what people type: a moment in time, and the name of a stream. Pure; the present is handed in.

Must not know the log: whether the stream exists is found out by reading it.
"""

import re
from datetime import UTC, datetime, timedelta

from events.model.base import service_id_of
from events.model.registry import AGGREGATES
from events.replay.errors import BadTime, NoSuchStream

MICROS = 1_000_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"^(?:(\d{1,9})\s*([smhdw])\s*)(?:ago)?$")
_UNIX = re.compile(r"^\d{9,16}(\.\d{1,6})?$")
_NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")


def parse_time(text: str, *, now: int) -> int:
    """A moment in microseconds UTC.

    Takes ISO-8601 (without a zone: UTC; a date alone: its midnight), "10m", "10m ago" (s, m, h, d, w), "now", and unix
    time in seconds, milliseconds or microseconds by its number of digits. `now`: microseconds UTC. Raises BadTime.
    """
    plain = text.strip()
    if plain == "now":
        return now
    if ago := _AGO.match(plain.lower()):
        return now - int(ago[1]) * _UNITS[ago[2]] * MICROS
    if _UNIX.match(plain):
        return _unix(plain)
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        raise BadTime(
            f"expected a time like 2026-01-31T12:00:00Z, 10m ago or 1767225600, found {text[:60]!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    # Whole numbers all the way: a float of seconds would lose the last microseconds, and with them the event asked for.
    return (since.days * 86400 + since.seconds) * MICROS + since.microseconds


def _unix(text: str) -> int:
    whole, _, fraction = text.partition(".")
    scale = MICROS if len(whole) <= 11 else 1000 if len(whole) <= 14 else 1
    return int(whole) * scale + int(fraction.ljust(6, "0")) * scale // MICROS if fraction else int(whole) * scale


def show_time(micros: int) -> str:
    """Microseconds UTC as ISO-8601, to the microsecond, which `parse_time` reads back."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    return moment.isoformat().replace("+00:00", "Z")


def resolve_stream(text: str, *, team: str = "default") -> str:
    """The stream that `text` names: one as it stands ("component/0123…", "team/default"), or a component by its names.

    A component: "app/component" in `team`, or "team/app/component". Where a text could be both, as in "app/web", it is
    a stream when what follows the kind could be that kind's id, else a component. Raises NoSuchStream.
    """
    kind, _, ident = text.partition("/")
    if kind in AGGREGATES and _could_be_id(kind, ident):
        return text
    names = text.split("/")
    if len(names) == 2:
        names = [team, *names]
    if len(names) != 3 or not all(_NAME.match(name) for name in names):
        kinds = ", ".join(sorted(AGGREGATES))
        raise NoSuchStream(
            f"expected app/component, team/app/component or KIND/ID (kinds: {kinds}), found {text[:80]!r}"
        )
    return f"component/{service_id_of(*names)}"


def _could_be_id(kind: str, ident: str) -> bool:
    match kind:
        case "component":
            return re.fullmatch(r"[0-9a-f]{16}", ident) is not None
        case "build":
            return re.fullmatch(r"[0-9a-f]{16}-.{1,128}", ident) is not None
        case "app":
            return ident.count(".") == 1
        case "route":
            return "/" in ident
    return bool(ident) and "/" not in ident
