"""Which instances are followed and how far each was read: what a collector finds again after a restart.

Small files in one directory. The server's position is the truth; what stands here makes only a loss's count exact.
"""

import logging
import os
import struct
import zlib
from pathlib import Path

import msgspec

from actors.logs.drivers.port import Origin as Whose
from actors.logs.line import Origin, Source

_log = logging.getLogger(__name__)

_PROGRESS = struct.Struct("<qqI")
"""Position, lines taken of its segment, CRC32 of both."""


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """An instance to follow. `directory`, there already, holds `log/` and, at its end, `exit.json`.

    `stream` is the log stream its lines go to: its service id.
    """

    instance_id: str
    stream: str
    release: int
    directory: str
    source: Source = "app"
    files: tuple[str, ...] = ()
    """Files the application writes, relative to its `home`, which are followed through their rotation as well."""
    drains: tuple[str, ...] = ()
    """URLs of other places for its lines (`actors.logs.drivers`); as secret as its environment, which is beside it."""
    whose: Whose = Whose()

    @property
    def origin(self) -> Origin:
        """What all its lines have in common."""
        return Origin(source=self.source, instance=self.instance_id, release=self.release)


class _State(msgspec.Struct, frozen=True, kw_only=True):
    followed: Followed


class FollowedBook:
    """The files in `directory`. Blocking."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def all(self) -> list[Followed]:
        """Every instance that was followed when the last collector stopped."""
        found: list[Followed] = []
        for path in sorted(self.directory.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=_State).followed)
            except (msgspec.MsgspecError, OSError) as error:
                # Only a cache: whoever runs the instance tells the collector of it again.
                _log.warning("log collector: %s cannot be read: %s", path, error)
        return found

    def add(self, followed: Followed) -> None:
        """From now on it is followed, also after a restart."""
        path = self._path(followed.instance_id, ".json")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.new")
        new.touch(mode=0o600)
        new.write_bytes(msgspec.json.encode(_State(followed=followed)))
        new.replace(path)

    def forget(self, instance_id: str) -> None:
        """It has ended and all of it is stored."""
        for ending in (".json", ".place"):
            self._path(instance_id, ending).unlink(missing_ok=True)

    def progress(self, instance_id: str) -> "Progress":
        """How far the instance was read."""
        return Progress(self._path(instance_id, ".place"))

    def _path(self, instance_id: str, ending: str) -> Path:
        if not instance_id or "/" in instance_id or instance_id.startswith("."):
            raise ValueError(f"expected an instance id, found {instance_id[:80]!r}")
        return self.directory / f"{instance_id}{ending}"


class Progress:
    """A position and how many lines of its segment were taken, overwritten in place: renaming a file for each batch
    costs more than storing it. One write within a page, so a killed process leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def taken_at(self, position: int) -> int | None:
        """Lines taken of the segment at `position`; None where that is not what was noted last."""
        try:
            noted, taken, check = _PROGRESS.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return None
        whole = check == zlib.crc32(_PROGRESS.pack(noted, taken, 0))
        return int(taken) if whole and noted == position else None

    def note(self, position: int, taken: int) -> None:
        """Keep both. Raises OSError."""
        if self._fd < 0:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        check = zlib.crc32(_PROGRESS.pack(position, taken, 0))
        os.pwrite(self._fd, _PROGRESS.pack(position, taken, check), 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
