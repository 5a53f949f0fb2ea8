"""Sources on disk by their sha256: written aside, checked, then renamed, so that a name never holds half a content.

Blocking, for threads. A file is kept once; which teams have put it is kept beside, so that knowing a digest is not
having the source. Knows nothing of HTTP.
"""

import hashlib
import os
import secrets
import threading
from pathlib import Path

from actors.builder.uploads import renew, uploads_locked
from events.durable import sync_directory
from events.failpoints import failpoint

PARTIAL = ".partial-"


class DigestMismatch(Exception):
    """The content has another sha256 than its name; nothing was kept."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected content of sha256 {expected}, found {found}")


class Uploads:
    """The directory of sources: `<sha256>`, and `teams/<team>/<sha256>` for who has put it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, team: str, sha256: str) -> bool:
        """Whether this team has put it. To ask is to use it: it is kept for a time from now on."""
        try:
            with uploads_locked(self._directory):
                return renew(self._mark(team, sha256), self._directory / sha256)
        except FileNotFoundError:
            return False

    def _mark(self, team: str, sha256: str) -> Path:
        return self._directory / "teams" / team / sha256

    def begin(self) -> "Writing":
        """A new file to write to. Raises OSError."""
        return Writing.beside(self._directory)

    def keep(self, writing: "Writing", team: str, sha256: str) -> None:
        """Make what was written durable under its name. Raises DigestMismatch and OSError; then nothing is kept."""
        found = writing.finish()
        if found != sha256:
            raise DigestMismatch(sha256, found)
        failpoint("api.upload.before-rename")
        mark = self._mark(team, sha256)
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with uploads_locked(self._directory):
            writing.path.rename(self._directory / sha256)
            sync_directory(self._directory)
            mark.touch(mode=0o600)
            renew(self._directory / sha256)
        sync_directory(mark.parent)


class Writing:
    """A file being received. `discard` in every case: after `keep` it finds nothing to remove."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        # A write whose request was cut off still runs in its thread: closing waits for it, lest it hit a reused number.
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @classmethod
    def beside(cls, directory: Path) -> "Writing":
        """A new file without a name of its own yet, in a directory which is made. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(directory / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}")

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        view = memoryview(data)
        with self._lock:
            while view and self._fd >= 0:
                view = view[os.write(self._fd, view) :]
        self._digest.update(data)
        self.size += len(data)

    def finish(self, *, durable: bool = True) -> str:
        """Close it, and have it on disk before where it is to be `durable`; returns the sha256 in hex."""
        if durable:
            with self._lock:
                os.fsync(self._fd)
        self._close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Leave nothing behind."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
