"""Reading the moments that people type, and writing them. Pure; the present is handed in.

Must not know the log, nor import what a command line would wait for.
"""

import re
from datetime import UTC, datetime, timedelta

from events.replay.errors import BadTime

MICROS = 1_000_000
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"^(?:(\d{1,9})\s*(s|min|m|h|d|w)\s*)(?:ago)?$")
_UNIX = re.compile(r"^\d{9,16}(\.\d{1,6})?$")


def parse_time(text: str, *, now: int) -> int:
    """A moment in microseconds UTC.

    Takes ISO-8601 (without a zone: UTC; a date alone: its midnight), "10m", "10m ago" (s, m or min, h, d, w), "now",
    and unix time in seconds, milliseconds or microseconds by its number of digits. `now`: microseconds UTC. Raises
    BadTime.
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
            f"expected a time like 2026-01-31T12:00:00Z, 10m ago, now or 1767225600, found {text[:60]!r}"
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
