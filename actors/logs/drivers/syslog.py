"""Syslog: RFC 5424 messages with octet counts over TCP (RFC 6587) or TLS (RFC 5425).

The protocol knows no answer: a line counts as sent once this machine's kernel has it, and what a peer that dies had not
read is lost without a word. The other drivers have an answer.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime

from actors.logs.drivers.port import SEND_SECONDS, DriverAway, Origin, trusted_context
from actors.logs.line import LogLine

_USER_INFO, _USER_ERROR = 1 * 8 + 6, 1 * 8 + 3
_ENTERPRISE = 32473
"""The number that RFC 5612 sets aside for examples and those that have none of their own."""
_NO_NAME = re.compile(r"[^!-~]")


class SyslogDriver:
    """One connection, made when first needed and again after a break."""

    def __init__(self, host: str, port: int, origin: Origin, *, tls: bool = False) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._node = _NO_NAME.sub("_", origin.node)[:255] or "-"
        self._app = _NO_NAME.sub("_", f"{origin.team}/{origin.app}/{origin.component}")[:48]
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, stream: str, lines: Sequence[LogLine]) -> None:
        """See Driver."""
        data = b"".join(self._framed(stream, line) for line in lines)
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if self._writer is None or self._writer.is_closing():
                    if self._tls and self._context is None:
                        self._context = await trusted_context()
                    name = self._host if self._tls else None
                    _, self._writer = await asyncio.open_connection(
                        self._host, self._port, ssl=self._context, server_hostname=name
                    )
                self._writer.write(data)
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            await self.aclose()
            raise DriverAway(f"syslog at {self._host}:{self._port}: {error or type(error).__name__}") from error

    async def aclose(self) -> None:
        """See Driver."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                pass  # it was broken already

    def _framed(self, stream: str, line: LogLine) -> bytes:
        at = datetime.fromtimestamp(line.at / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        priority = _USER_ERROR if line.stream == "e" else _USER_INFO
        process = _NO_NAME.sub("_", line.instance)[:128] or "-"
        data = f'[rayfold@{_ENTERPRISE} stream="{stream}" number="{line.number}" release="{line.release}"'
        data += f' gap="{line.gap}"]' if line.gap else "]"
        message = f"<{priority}>1 {at} {self._node} {self._app} {process} {line.source} {data} {line.text}".encode()
        return b"%d %s" % (len(message), message)
