"""Claims: which process writes a stream, kept beside the stream's lines, so that the fence is where a write lands.

A stream's directory is `STREAM~EPOCH`. To claim it is to rename it to the next epoch: one rename of several wins, and
every path the last owner holds is gone with it. What that owner may still have is an open file; unless it is known to
be dead, the newest segment gives way to a copy, and what is written to the old file is written nowhere. An owner
acknowledges only what it finds itself still the owner of after its fsync: lines are in the segment before the claim
that reads it, or were never answered for. Knows files; nothing of who ought to own what. Blocking.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from actors.logs.errors import StorageFailed, StreamMoved
from actors.logs.segment import list_segments
from events.durable import sync_directory
from events.failpoints import failpoint

_OWNER = "owner"
_CLAIM_SECONDS = 5.0


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes a stream: `member` by its name, which whoever runs under it next has too; `process` this one alone."""

    member: str
    process: str


class Membership:
    """This process among those that share a store's directory: a lock that the kernel lets go of when it dies."""

    def __init__(self, root: Path, member: str) -> None:
        self.owner = Owner(member=member, process=f"{member}.{os.getpid()}.{secrets.token_hex(4)}")
        self._root = root
        self._fd: int | None = None

    def enter(self) -> None:
        """Raises StorageFailed."""
        try:
            self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._lock(self.owner.process), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageFailed(f"expected a directory that can be written, found {self._root}: {error}") from error

    def leave(self) -> None:
        """Nothing may be written any more."""
        if self._fd is not None:
            self._lock(self.owner.process).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def may_live(self, process: str) -> bool:
        """Whether a process of this store may still write; one that is stopped may."""
        path = self._lock(process)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(fd)

    @property
    def _locks(self) -> Path:
        return self._root / "members"

    def _lock(self, process: str) -> Path:
        return self._locks / f"{process}.lock"


class Claim:
    """A stream that is this process's to write, until another claims it."""

    def __init__(self, stream: str, directory: Path, owner: Owner) -> None:
        self.directory = directory
        self._path = str(directory)
        self._stream = stream
        self._owner = owner

    def holds(self) -> bool:
        """Whether nobody has claimed the stream since."""
        return os.path.isdir(self._path)  # noqa: PTH112 - asked some times for each commit

    def check(self) -> None:
        """After an fsync, before anybody is answered. Raises StreamMoved."""
        if not self.holds():
            raise StreamMoved(f"stream {self._stream}: expected to be its writer, found that another has claimed it")

    def give(self, member: str) -> None:
        """Say that `member` ought to claim the stream. Raises StreamMoved, StorageFailed."""
        _write_owner(self._stream, self.directory, Owner(member=member, process=self._owner.process))


def shard_of(root: Path, stream: str) -> Path:
    """The directory that holds the stream's directory."""
    return root / hashlib.blake2b(stream.encode(), digest_size=1).hexdigest()


def streams_in(root: Path) -> list[str]:
    """Every stream that is on disk."""
    names = (path.name.partition("~")[0] for path in root.glob("[0-9a-f][0-9a-f]/*") if path.is_dir())
    return sorted({name.replace("@", "/") for name in names})


def owner_of(root: Path, stream: str) -> Owner | None:
    """Who claimed the stream last; None when nobody ever did."""
    for _ in range(3):
        found = _find(root, stream)
        if found is None:
            return None
        owner = _read_owner(found[1])
        if owner is not None or found[1].is_dir():
            return owner
    return None


def claim(root: Path, stream: str, membership: Membership) -> Claim:
    """Make this process the stream's writer, whoever was. Raises StorageFailed."""
    me = membership.owner
    try:
        with _only_claim(shard_of(root, stream)):
            epoch, directory = _find(root, stream) or _make(root, stream)
            last = _read_owner(directory)
            if last is not None and last.process == me.process:
                return Claim(stream, directory, me)
            taken = directory.with_name(f"{_base(stream)}~{epoch + 1:08d}")
            directory.rename(taken)
            failpoint("logs.claimed")
            # The owner's record comes last: whoever claims after a crash here still finds out about the last owner.
            if last is not None and membership.may_live(last.process):
                _part_from(taken)
            failpoint("logs.parted")
            _write_owner(stream, taken, me)
    except OSError as error:
        raise StorageFailed(f"stream {stream}: cannot be claimed: {error}") from error
    return Claim(stream, taken, me)


@contextmanager
def _only_claim(shard: Path) -> Iterator[None]:
    """One claim in a shard at a time, for a directory's listing may miss what is renamed meanwhile."""
    shard.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(shard / ".claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _CLAIM_SECONDS
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        yield
    finally:
        os.close(fd)


def _base(stream: str) -> str:
    return stream.replace("/", "@")


def _find(root: Path, stream: str) -> tuple[int, Path] | None:
    """The stream's epoch and directory; one from before there were epochs is in epoch 0."""
    base, shard = _base(stream), shard_of(root, stream)
    found: list[tuple[int, Path]] = []
    try:
        names = [path.name for path in shard.iterdir()]
    except FileNotFoundError:
        return None
    for name in names:
        stem, _, epoch = name.partition("~")
        if stem == base and (not epoch or epoch.isdigit()):
            found.append((int(epoch or 0), shard / name))
    return max(found, default=None)


def _make(root: Path, stream: str) -> tuple[int, Path]:
    directory = shard_of(root, stream) / f"{_base(stream)}~{0:08d}"
    directory.mkdir(mode=0o700)
    for above in (directory.parent, root):
        sync_directory(above)
    return 0, directory


def _part_from(directory: Path) -> None:
    """Put a copy in the place of the one file that the last owner may have open for writing."""
    for path in list_segments(directory)[-1:]:
        draft = path.with_suffix(".draft")
        shutil.copyfile(path, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(directory)


def _read_owner(directory: Path) -> Owner | None:
    try:
        return msgspec.json.decode((directory / _OWNER).read_bytes(), type=Owner)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def _write_owner(stream: str, directory: Path, owner: Owner) -> None:
    draft = directory / f"{_OWNER}.draft"
    try:
        draft.write_bytes(msgspec.json.encode(owner))
        draft.replace(directory / _OWNER)
    except FileNotFoundError as error:
        raise StreamMoved(f"stream {stream}: expected to be its writer, found that another has claimed it") from error
