"""The access log's size bound: moves a full file aside and has Envoy open a new one.

Knows files and one admin call; nothing of the lines. Who follows the log sees a rename, as with logrotate.
"""

import asyncio
from pathlib import Path

import structlog

from actors.gateway.admin import EnvoyAdmin
from actors.gateway.errors import EnvoyAdminError

_log = structlog.get_logger(__name__)
_CHECK_SECONDS = 5.0


class AccessLogFile:
    """`path` holds the newest lines, `path.1` … `path.{keep}` the older ones; at most about (keep + 1) x max_bytes."""

    def __init__(self, path: Path, max_bytes: int, keep: int, admin: EnvoyAdmin) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._admin = admin

    async def watch(self) -> None:
        """Rotate whenever the file is full, for ever."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.rotate_if_full()
            except (OSError, EnvoyAdminError) as error:
                _log.warning("gateway.access_log.rotation_failed", error=str(error))

    async def rotate_if_full(self) -> bool:
        """Rotate when the file has reached its bound; tells whether it did."""
        if not await asyncio.to_thread(self._move_if_full):
            return False
        await self._admin.reopen_logs()
        return True

    def _move_if_full(self) -> bool:
        if not self._path.exists() or self._path.stat().st_size < self._max_bytes:
            return False
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.rename(self._numbered(number + 1))
        self._path.rename(self._numbered(1))
        return True

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
