"""Who is asking: bearer tokens, what each reaches, and the ids of commands.

Knows digests and comparisons; where a team's token digests are kept is behind `TokenLookup`.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from api.http.problems import invalid, unauthorized

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_KEY = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")

TokenLookup = Callable[[str], Awaitable[str | None]]
"""sha256 of a token (hex) → the team it acts for, or None."""


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who asks. `team` is the only one it reaches; None is the administrator, who reaches all."""

    name: str
    team: str | None

    def reaches(self, team: str | None) -> bool:
        """Whether a thing of `team` exists for this one; what belongs to no team is the administrator's."""
        return self.team is None or (team is not None and self.team == team)


ADMIN = Principal(name="admin", team=None)


def digest_of(token: str) -> str:
    """What is kept of a token: its sha256 in hex. Tokens are random, so no salt or stretching is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def derived_token(admin_token: str, command_id: str) -> str:
    """A team's token for the command that asks for it: the same command sent twice gets the same answer, though the
    token is stored nowhere. Unguessable without the administrator's."""
    mac = hmac.new(admin_token.encode(), f"team-token|{command_id}".encode(), hashlib.sha256)
    return "rft_" + mac.hexdigest()


class Gatekeeper:
    """Turns an Authorization header into a principal."""

    def __init__(self, admin_token: str, lookup: TokenLookup) -> None:
        self._admin_digest = digest_of(admin_token)
        self._lookup = lookup

    async def principal(self, authorization: str) -> Principal:
        """Raises HttpProblem 401. Only digests are compared, in constant time."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not 16 <= len(token) <= 256:
            raise unauthorized()
        digest = digest_of(token)
        if hmac.compare_digest(digest, self._admin_digest):
            return ADMIN
        team = await self._lookup(digest)
        if team is None:
            raise unauthorized()
        return Principal(name=f"team:{team}", team=team)


class _RandomBits:
    """80 random bits at a time out of larger pieces: each request takes some, and a system call each is dear."""

    def __init__(self) -> None:
        self._left = b""

    def next(self) -> int:
        if len(self._left) < 10:
            self._left = secrets.token_bytes(4000)
        taken, self._left = self._left[:10], self._left[10:]
        return int.from_bytes(taken)


_random_bits = _RandomBits()


def fresh_id() -> str:
    """26 characters that sort by time: 48 bits of milliseconds, 80 random ones."""
    value = (time.time_ns() // 1_000_000 & ((1 << 48) - 1)) << 80 | _random_bits.next()
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def command_id_of(scope: str, method: str, path: str, key: str | None) -> str:
    """The id of a write's command: made from its Idempotency-Key, or a fresh one without.

    `scope` is the team it works in. The key is one team's, on one method and path: used elsewhere it is another
    command, so it can never show the result of somebody else's. The body does not count: the first one wins.
    Raises HttpProblem 422 for a key that is none.
    """
    if key is None:
        return fresh_id()
    if not _KEY.match(key):
        raise invalid("expected an Idempotency-Key of 1 to 64 letters, digits, _ . or -, found something else")
    return hashlib.blake2b(f"{scope}|{method} {path}|{key}".encode(), digest_size=13).hexdigest()
