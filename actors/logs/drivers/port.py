"""The port behind which every other place for log lines is: what a driver promises, and how one is named by its URL.

Knows nothing of where lines come from or of what was sent already.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Protocol

import msgspec

from actors.logs.line import LogLine

SEND_SECONDS = 20.0


class DriverAway(Exception):
    """The other side cannot be reached or asks for patience: send the same lines again, later."""


class DriverRefused(Exception):
    """The other side will never take these lines; the message says why."""


class BadDriver(ValueError):
    """The URL names no driver."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Whose lines a driver sends: shown as labels, fields or the application's name, whatever the other side has."""

    team: str = ""
    app: str = ""
    component: str = ""
    node: str = ""


async def trusted_context() -> ssl.SSLContext:
    """Trusts the machine's authorities, or those in the file that SSL_CERT_FILE names; a name must fit, always."""
    return await asyncio.to_thread(ssl.create_default_context)


class Driver(Protocol):
    """Sends lines to one place, in order."""

    async def send(self, stream: str, lines: Sequence[LogLine]) -> None:
        """Returns once the other side has answered for the lines. Raises DriverAway, DriverRefused."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
