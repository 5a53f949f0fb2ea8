"""The gateway's run directory: closed to other users, short enough for sockets, and held by one gateway at a time.

Knows files only; nothing of what is kept in them.
"""

import fcntl
import os
from pathlib import Path

from actors.gateway.errors import GatewaySettingsError

SOCKET_PATH_LIMIT = 107
"""Bytes of a unix socket's path that the kernel takes (sun_path without its final NUL)."""


def check_socket_path(path: Path) -> None:
    """Raise GatewaySettingsError when `path` is too long for a unix socket."""
    size = len(str(path).encode())
    if size > SOCKET_PATH_LIMIT:
        raise GatewaySettingsError(
            f"expected a unix socket path of at most {SOCKET_PATH_LIMIT} bytes, found {size}: {path}; "
            "choose a shorter run directory"
        )


class RunDirectory:
    """Made 0700 by `take`, which also locks it; the lock ends with `release` or with this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    def take(self) -> None:
        """Raises GatewaySettingsError if others may enter, or another gateway has it."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = self._path.stat().st_mode & 0o777
        if mode & 0o077:
            raise GatewaySettingsError(
                f"expected the run directory {self._path} to be closed to other users, found mode {mode:o}; "
                f"run: chmod 700 {self._path}"
            )
        lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise GatewaySettingsError(
                f"expected to be the only gateway in {self._path}, found another that runs; stop it first"
            ) from error
        self._lock = lock

    def release(self) -> None:
        """Let another gateway have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
