"""The text form of a sealed value, `sealed:1:TEAM:KEYID:FINGERPRINT:BASE64`, and how people see it.

Knows the shape only: no key, no cipher. Everything that is shown to anybody goes through `mask`.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

MASK = "••••"
PREFIX = "sealed:1:"

_TEXT = re.compile(r"sealed:1:([a-z0-9-]{1,40}):([0-9a-f]{16}):([0-9a-f]{16}):([A-Za-z0-9_-]+)")

_T = TypeVar("_T")


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed value, taken apart. `fingerprint`: 16 hex digits, equal for equal values under the same key; `body`: the
    nonce and the cipher's output in URL-safe base64 without padding."""

    team: str
    key_id: str
    fingerprint: str
    body: str

    def text(self) -> str:
        """As it is stored."""
        return f"{PREFIX}{self.team}:{self.key_id}:{self.fingerprint}:{self.body}"

    @classmethod
    def parse(cls, text: str) -> "Sealed | None":
        """The parts of `text`; None when it is no sealed value."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        return cls(team=found[1], key_id=found[2], fingerprint=found[3], body=found[4])


def is_sealed(text: str) -> bool:
    """Whether `text` is a sealed value as a whole."""
    return _TEXT.fullmatch(text) is not None


def shown(sealed: Sealed) -> str:
    """What people see of it: the same text for the same value, so that a change shows and the value does not."""
    return f"{MASK} ({sealed.fingerprint})"


def mask(plain: _T) -> _T:
    """`plain` (text, or what JSON can say, of any depth) with every sealed value as `•••• (fingerprint)`.

    Also where it stands inside a longer text, such as a message. What holds none comes back as it is, not copied.
    """
    return _masked(plain)  # type: ignore[return-value] # each branch below keeps the shape it was given


def _masked(plain: object) -> object:
    if isinstance(plain, str):
        return _TEXT.sub(lambda found: f"{MASK} ({found[3]})", plain) if PREFIX in plain else plain
    if isinstance(plain, Mapping):
        items = {_masked(key): _masked(value) for key, value in plain.items()}
        return items if any(items.get(key) is not value for key, value in plain.items()) else plain
    if isinstance(plain, (list, tuple)):
        parts = [_masked(value) for value in plain]
        same = all(new is old for new, old in zip(parts, plain, strict=True))
        return plain if same else type(plain)(parts)
    return plain
