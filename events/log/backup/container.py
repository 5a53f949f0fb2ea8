"""The file of a backup: a tar whose last two members list every other with its sha256, and seal that list and the file.

Knows names, bytes and hashes; nothing of batches or of etcd. Any tar program opens it. Memory: one member at a time.
"""

import hashlib
import io
import os
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from events.durable import sync_directory
from events.failpoints import failpoint
from events.log.backup.manifest import FORMAT, BackupManifest, Member

MANIFEST = "MANIFEST.json"
SEAL = "SHA256"
COPY_BYTES = 1 << 20


class BackupDamaged(Exception):
    """The file is no whole backup; says which member is wrong, what was expected and what was found."""


class BackupWriter:
    """Writes a new file; it appears under its name whole, synced, or not at all. Blocking: use it in a thread.

    Use as a context manager: leaving it without `seal` removes what was written.
    """

    def __init__(self, path: Path, at: int) -> None:
        """`at`: the time every member carries, in seconds since 1970."""
        self._path = path
        self._at = at
        self._draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        self._file: IO[bytes] = os.fdopen(os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._whole = _Written(self._file)
        # Not as a stream ("w|"): what that still held back would be missing from the hash when it is sealed.
        self._tar = tarfile.TarFile(fileobj=self._whole, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type]
        self.members: list[Member] = []

    def __enter__(self) -> "BackupWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, name: str, data: bytes) -> Member:
        """Add a piece that is in memory."""
        return self._add(name, io.BytesIO(data), len(data))

    def add_file(self, name: str, path: Path) -> Member:
        """Add a file that does not change."""
        with path.open("rb") as file:
            return self._add(name, file, os.fstat(file.fileno()).st_size)

    def seal(self, manifest: bytes) -> str:
        """Write the list and its seal, sync, and give the file its name. Returns the seal: the list's sha256 (hex)."""
        seal = hashlib.sha256(manifest).hexdigest()
        self._add(MANIFEST, io.BytesIO(manifest), len(manifest))
        lines = f"{seal}\n{self._whole.sha256.hexdigest()}\n".encode()
        self._add(SEAL, io.BytesIO(lines), len(lines))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        failpoint("log.backup.written")
        self._draft.replace(self._path)
        sync_directory(self._path.parent)
        return seal

    def _add(self, name: str, source: IO[bytes], size: int) -> Member:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, self._at, 0o600
        reader = _Hashing(source)
        self._tar.addfile(info, reader)
        member = Member(name=name, bytes=size, sha256=reader.sha256.hexdigest())
        self.members.append(member)
        return member


class _Written:
    """Hashes what is written through it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._target.write(data)

    def tell(self) -> int:
        return self._target.tell()


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.sha256.update(data)
        return data


class BackupReader:
    """An existing file, its members found and its list checked against the seal. Blocking: use it in a thread.

    Raises BackupDamaged if it is cut short, its list is not what was sealed, or its members are not those of the list;
    each member is checked as it is read.
    """

    def __init__(self, path: Path, place: str = "") -> None:
        """`place`: where a person knows it to be, if that is not `path`."""
        self.place = place or str(path)
        self._file = path.open("rb")
        try:
            self._places = self._index()
            self.seal, self._whole = [*self._raw(SEAL).decode(errors="replace").split(), "", ""][:2]
            raw = self._raw(MANIFEST)
            if (found := hashlib.sha256(raw).hexdigest()) != self.seal:
                raise BackupDamaged(
                    f"{self.place}: {MANIFEST}: expected sha256 {self.seal} as {SEAL} says, found {found}"
                )
            self.manifest = _decode(self.place, raw)
            self._members = {member.name: member for member in self.manifest.members}
            self._compare_names()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """A member's bytes, checked. Raises BackupDamaged."""
        data = self._raw(name)
        self._compare(self._members[name], len(data), hashlib.sha256(data).hexdigest())
        return data

    def copy(self, member: Member, target: IO[bytes] | None) -> None:
        """Check a member of any size, writing it to `target`. Raises BackupDamaged, at its end."""
        sha256, size = hashlib.sha256(), 0
        for chunk in self._chunks(member.name):
            sha256.update(chunk)
            size += len(chunk)
            if target is not None:
                target.write(chunk)
        self._compare(member, size, sha256.hexdigest())

    def check_whole(self) -> None:
        """Check every byte of the file, also those that belong to no member. Raises BackupDamaged."""
        begin, end = self._places[SEAL][0] - tarfile.BLOCKSIZE, os.fstat(self._file.fileno()).st_size
        found = hashlib.sha256()
        for chunk in self._range(0, begin, "the bytes before its seal"):
            found.update(chunk)
        if found.hexdigest() != self._whole:
            raise BackupDamaged(f"{self.place}: expected sha256 {self._whole} up to {SEAL}, found {found.hexdigest()}")
        rest = begin + tarfile.BLOCKSIZE + self._places[SEAL][1]
        padding = b"".join(self._range(rest, end - rest, "its end"))
        if any(padding):
            raise BackupDamaged(f"{self.place}: expected it to end in zeros after {SEAL}, found other bytes")
        if end % tarfile.RECORDSIZE or len(padding) < 2 * tarfile.BLOCKSIZE:
            least = rest + 2 * tarfile.BLOCKSIZE
            wanted = -(-least // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
            raise BackupDamaged(
                f"{self.place}: expected {wanted} bytes, found {end}: it is cut short, or something was added "
                "to its end"
            )

    def _compare_names(self) -> None:
        if found := sorted((self._members.keys() | {MANIFEST, SEAL}) ^ self._places.keys()):
            raise BackupDamaged(f"{self.place}: expected the members of {MANIFEST}, found a difference: {found[:5]}")

    def _index(self) -> dict[str, tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for info in tar:
                    if not info.isreg() or info.name in places:
                        raise BackupDamaged(
                            f"{self.place}: expected plain members, each once, found {info.name!r} again"
                        )
                    places[info.name] = (info.offset_data, info.size)
        except tarfile.TarError as error:
            raise BackupDamaged(f"{self.place}: expected a whole backup, found {error}") from error
        if SEAL not in places or MANIFEST not in places:
            raise BackupDamaged(
                f"{self.place}: expected {MANIFEST} and {SEAL} at its end, found neither after {len(places)} members: "
                "it is cut short or no backup"
            )
        return places

    def _compare(self, member: Member, size: int, sha256: str) -> None:
        if (size, sha256) != (member.bytes, member.sha256):
            raise BackupDamaged(
                f"{self.place}: {member.name}: expected {member.bytes} bytes with sha256 {member.sha256}, found {size} "
                f"with {sha256}"
            )

    def _raw(self, name: str) -> bytes:
        return b"".join(self._chunks(name))

    def _chunks(self, name: str) -> Iterator[bytes]:
        if name not in self._places:
            raise BackupDamaged(f"{self.place}: expected a member {name}, found none")
        yield from self._range(*self._places[name], name)

    def _range(self, start: int, left: int, what: str) -> Iterator[bytes]:
        while left > 0:
            # pread: several threads may read, each at its own place.
            chunk = os.pread(self._file.fileno(), min(left, COPY_BYTES), start)
            if not chunk:
                raise BackupDamaged(f"{self.place}: {what}: expected {left} bytes more, found the end of the file")
            start += len(chunk)
            left -= len(chunk)
            yield chunk


def _decode(place: str, raw: bytes) -> BackupManifest:
    try:
        manifest = msgspec.json.decode(raw, type=BackupManifest)
    except msgspec.MsgspecError as error:
        raise BackupDamaged(f"{place}: {MANIFEST}: expected one that this release can read, found {error}") from error
    if manifest.format != FORMAT:
        raise BackupDamaged(
            f"{place}: expected a backup of format {FORMAT}, found {manifest.format}: use a newer release"
        )
    return manifest
