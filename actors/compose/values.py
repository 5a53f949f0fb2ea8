"""The short forms of Compose's values: sizes, durations, ports, lists that may be maps. Pure; raises `ComposeError`."""

import re
import shlex
from collections.abc import Iterator

import msgspec

from actors.compose.model import ComposeError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([bkmgt]?)i?b?\Z", re.IGNORECASE)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?\Z")
_URL = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::(\d+))?(/[^\s'\"|&;]*)?")
_POWER = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_HIGHEST_PORT = 65535


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One published port: `target` is the container's; `published` the machine's, as it is written."""

    target: int
    published: str = ""
    protocol: str = "tcp"


def size(value: object) -> int:
    """Bytes of `512m`, `1.5g`, `1024`."""
    match = _SIZE.match(str(value).strip())
    if match is None:
        raise ComposeError(f"expected a size such as 512m, found {str(value)[:40]!r}")
    return int(float(match[1]) * 1024 ** _POWER[match[2].lower()])


def seconds(value: object) -> int:
    """Whole seconds, rounded up, of `1m30s`, `10s`, `500ms`; a bare number is seconds."""
    text = str(value).strip()
    if text.isdecimal():
        return int(text)
    match = _DURATION.match(text)
    if match is None or not text:
        raise ComposeError(f"expected a duration such as 1m30s, found {text[:40]!r}")
    hours, minutes, secs, millis = (float(part or 0) for part in match.groups())
    return -int(-(hours * 3600 + minutes * 60 + secs + millis / 1000) // 1)


def pairs(value: object, what: str) -> dict[str, str | None]:
    """A map, or a list of NAME=value; None where a name stands alone."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return {str(name): None if given is None else _plain(given) for name, given in value.items()}
    if isinstance(value, list):
        split = (str(each).partition("=") for each in value)
        return {name: given if equals else None for name, equals, given in split}
    raise ComposeError(f"{what}: expected a map or a list of NAME=value, found {str(value)[:60]!r}")


def names(value: object, what: str) -> list[str]:
    """A list of names, one alone, or the names of a map."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | dict):
        return [str(each) for each in value]
    raise ComposeError(f"{what}: expected a list, found {str(value)[:60]!r}")


def ports(value: object) -> Iterator[Port]:
    """`8080:80`, `127.0.0.1:8080:80/udp`, `80`, or the long form; a range counts by its first port."""
    if value is None:
        return
    if not isinstance(value, list):
        raise ComposeError(f"ports: expected a list, found {str(value)[:60]!r}")
    for each in value:
        if isinstance(each, dict):
            target, published = str(each.get("target", "")), str(each.get("published", ""))
            protocol = str(each.get("protocol", "tcp"))
        else:
            text, _, protocol = str(each).partition("/")
            published, _, target = text.rpartition(":")
            published, protocol = published.rpartition(":")[2], protocol or "tcp"
        first = target.partition("-")[0]
        if not first.isdecimal() or not 0 < int(first) <= _HIGHEST_PORT:
            raise ComposeError(f"ports: expected a port such as 8080:80, found {str(each)[:60]!r}")
        yield Port(target=int(first), published=published, protocol=protocol)


def probe_of(test: object) -> str:
    """The path that a health check's curl or wget asks this container for; "" where it does something else."""
    words = [str(each) for each in test] if isinstance(test, list) else [str(test)]
    match = _URL.search(" ".join(words))
    return (match[2] or "/") if match and re.search(r"\b(curl|wget)\b", " ".join(words)) else ""


def command_text(value: object) -> str:
    """A command as one line."""
    return shlex.join(str(each) for each in value) if isinstance(value, list) else str(value)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
