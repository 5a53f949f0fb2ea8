"""Gives every application on a node a user number of its own, for ever, where the platform runs as root.

Needs no passwd entry; knows nothing of instances. Elsewhere every application is the platform's own user.
"""

import fcntl
import os
import pwd
from pathlib import Path

import msgspec

from actors.runtime.errors import NodeNotUsable
from actors.runtime.shim import files

FIRST_UID = 210_000
LAST_UID = 259_999


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who an application's processes and files belong to."""

    uid: int
    gid: int

    @property
    def name(self) -> str:
        """The user's name; its number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


class UserBook:
    """The book of user numbers, `{node_root}/uids.json`: numbers are never used again for another application."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def owner_of(self, team: str, app: str) -> Owner:
        """The application's user, allotted at first asking. Blocking. Raises NodeNotUsable when none is left."""
        if os.geteuid() != 0:
            return Owner(uid=os.geteuid(), gid=os.getegid())
        # Closed to others whatever the umask: who can open a file can lock it, and keep everyone waiting.
        with open(self._path.with_suffix(".lock"), "w", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = self._read()
            key = f"{team}/{app}"
            if key not in book:
                book[key] = max(book.values(), default=FIRST_UID - 1) + 1
                if book[key] > LAST_UID:
                    raise NodeNotUsable(
                        f"expected a free user number in {FIRST_UID}-{LAST_UID}, found none; "
                        f"take applications that are gone for good out of {self._path}"
                    )
                files.write_json(str(self._path), dict(book))
            return Owner(uid=book[key], gid=book[key])

    def _read(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            # Guessing would hand one application's files to another.
            raise NodeNotUsable(
                f"expected user numbers in {self._path}, found {error}; restore it from a backup"
            ) from error
