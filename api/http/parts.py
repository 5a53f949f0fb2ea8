"""Parts of sources on disk, by team and sha256, and how they become uploads: a sender sends those that are not here.

A part is a copy that can be sent again: nothing waits until one is durable, and none is believed before its digest was
read. So any may be removed at any time, and what no upload has used for long is. Blocking, for threads. Knows nothing
of HTTP, nor of what is in a part.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from actors.builder.parts import Part
from actors.builder.uploads import entries
from api.http.uploads import PARTIAL, Uploads, Writing
from events.failpoints import failpoint

PART_BYTES = 1024 * 1024  # of one part; what our packing makes has at most a fifth
BUNDLE_BYTES = 8 * 1024 * 1024  # of the parts that are sent at once
MOST_PARTS = 20_000  # of one upload: with as many the list is half of what a body may have
KEPT_SECONDS = 30 * 86_400.0  # after its last use
ROUND_SECONDS = 3_600.0  # between two looks for parts that nobody has used for so long
ASIDE_SECONDS = 3_600.0  # what was begun so long ago and has no name yet, nobody writes to any more
_BLOCK_BYTES = 4_096  # the least that a file takes on a disk
_LOOKS = 16  # a team's parts are counted each time so much of its room has come in

log = structlog.get_logger("api")


class Parts:
    """The parts below an uploads directory: `parts/<team>/<sha256>`. `team_bytes`: what a team's may take on the disk.

    Several processes may have the same directory; each enforces the bound for what it writes itself.
    """

    def __init__(self, uploads: Path, *, team_bytes: int) -> None:
        self._root = uploads / "parts"
        self._team_bytes = team_bytes
        self._since_look: dict[str, int] = {}

    def keep(self, team: str, contents: Sequence[bytes]) -> None:
        """Keep each under its sha256. Raises OSError; those before it are kept then."""
        for directory in (self._root.parent, self._root):  # its parents would be open to all, were they made with it
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for content in contents:
            writing = Writing.beside(self._of(team))
            try:
                writing.write(content)
                sha256 = writing.finish(durable=False)
                failpoint("api.part.before-rename")
                writing.path.rename(self._of(team) / sha256)
            finally:
                writing.discard()
        self._bound(team, sum(max(len(content), _BLOCK_BYTES) for content in contents))

    def missing(self, team: str, parts: Sequence[Part]) -> list[str]:
        """The digests of those that are not here, each once, in order; those that are count as used now."""
        found: dict[str, bool] = {}
        for part in parts:
            if part.sha256 not in found:
                found[part.sha256] = self._use(self._of(team) / part.sha256, part.size_bytes)
        return [sha256 for sha256, here in found.items() if not here]

    def join(self, uploads: Uploads, team: str, sha256: str, parts: Sequence[Part]) -> list[str]:
        """Keep these parts, one behind the other, as the upload `sha256`.

        Returns the digests of those that are not here or are damaged; if there are any, nothing was kept. Raises
        DigestMismatch and OSError, and then nothing was kept either.
        """
        failpoint("api.join.before-read")
        writing = uploads.begin()
        try:
            missing: list[str] = []
            for part in parts:
                content = self._read(self._of(team) / part.sha256, part)
                if content is None:
                    missing.append(part.sha256)
                elif not missing:
                    writing.write(content)
            if not missing:
                failpoint("api.join.before-keep")
                uploads.keep(writing, team, sha256)
            return list(dict.fromkeys(missing))
        finally:
            writing.discard()

    def prune(self, team: str, *, now: float) -> int:
        """Remove what was not used for long, then what was used longest ago until the team has its room or less.

        `now` in unix seconds; returns the bytes that are left. An upload that counts on one of them is told that it is
        missing when it is joined.
        """
        _remove_aside(self._of(team), now)
        kept: list[tuple[float, int, Path]] = []
        for path in entries(self._of(team)):
            if path.name.startswith(PARTIAL):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if now - status.st_mtime > KEPT_SECONDS:
                path.unlink(missing_ok=True)
            else:
                kept.append((status.st_mtime, max(status.st_size, _BLOCK_BYTES), path))
        left = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if left <= self._team_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    def prune_all(self, *, now: float) -> None:
        """`prune` for every team that has parts, and what a killed server was writing, uploads too. Raises OSError."""
        _remove_aside(self._root.parent, now)
        for directory in entries(self._root):
            self.prune(directory.name, now=now)

    async def rounds(self) -> None:
        """Prune for ever, from time to time."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            try:
                await asyncio.to_thread(self.prune_all, now=time.time())
            except OSError as error:
                log.warning("parts of uploads could not be pruned", error=str(error))

    def _of(self, team: str) -> Path:
        return self._root / team

    def _bound(self, team: str, size: int) -> None:
        """Counting is reading a directory, so it is done now and then; the first time there is no knowing."""
        since = self._since_look.get(team, self._team_bytes) + size
        self._since_look[team] = since
        if since * _LOOKS >= self._team_bytes:
            self._since_look[team] = 0
            self.prune(team, now=time.time())

    def _use(self, path: Path, size: int) -> bool:
        try:
            if path.stat().st_size != size:
                return False  # cut off by a power failure: it is sent again
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _read(self, path: Path, part: Part) -> bytes | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() == part.sha256 and len(content) == part.size_bytes:
            return content
        log.warning("a part of an upload is damaged; it is asked for again", part=str(path))
        path.unlink(missing_ok=True)
        return None


def _remove_aside(directory: Path, now: float) -> None:
    for path in entries(directory):
        if path.name.startswith(PARTIAL):
            with suppress(FileNotFoundError):  # it has its name now, or another server removes it too
                if now - path.stat().st_mtime > ASIDE_SECONDS:
                    path.unlink()
