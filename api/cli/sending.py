"""Sends sources: of a packed one the parts that the platform does not have, a few at a time; a file as it is.

Knows packed sources and the API's uploads; nothing of what a source is deployed to.
"""

import hashlib
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from api.cli.client import ApiClient
from api.cli.errors import CliError, ExitCode
from api.cli.output import size

if TYPE_CHECKING:
    from actors.builder.pack import PackedSource

AT_ONCE = 4  # connections: enough that a line with a long way is never idle, and no team's share of a server
BUNDLE_BYTES = 1024 * 1024  # of parts in one request: many small ones would each wait for their answer
ROUNDS = 5  # each is another answer that parts are missing; one is what it takes, two when some were removed meanwhile

Places = Mapping[str, tuple[int, int]]
"""Where each part lies in the archive: offset and size in bytes, by its sha256."""


def send(client: ApiClient, uploads: str, packed: "PackedSource") -> str:
    """Have the source at the path `uploads`; returns in words what was sent. Raises ApiProblem, Unreachable, CliError.

    What was sent before a failure is there the next time.
    """
    parts = [{"sha256": part.sha256, "size_bytes": part.size_bytes} for part in packed.parts]
    places = _places(packed)
    sent: set[str] = set()
    for _ in range(ROUNDS):
        answer = client.send("POST", uploads, {"sha256": packed.digest, "parts": parts})
        missing = answer.words("missing")
        if not missing:
            return _told(sum(places[each][1] for each in sent), packed.size_bytes, everything=len(sent) == len(places))
        _put(client, uploads, packed, places, missing)
        sent.update(missing)
    raise CliError(
        f"expected the platform to keep the parts it was sent, found {len(missing)} missing after {ROUNDS} rounds",
        hint="its log names parts that are damaged or were removed; is its disk full?",
    )


class Put(NamedTuple):
    """A file that the platform has: its sha256, and whether it had it before."""

    digest: str
    there: bool


def put_file(client: ApiClient, uploads: str, file: Path) -> Put:
    """Have a file at the path `uploads`, whole, unless it is there. Raises ApiProblem, Unreachable, CliError."""
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}", exit_code=ExitCode.USAGE) from error
    path = f"{uploads}/{digest}"
    there = client.exists(path)
    if not there:
        client.upload(path, file)
    return Put(digest, there)


def _places(packed: "PackedSource") -> Places:
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    for part in packed.parts:
        places[part.sha256] = (offset, part.size_bytes)
        offset += part.size_bytes
    return places


def _told(sent: int, whole: int, *, everything: bool) -> str:
    if not sent:
        return "there already"
    return size(sent) if everything else f"{size(sent)} of {size(whole)} (the rest was there)"


def _put(client: ApiClient, uploads: str, packed: "PackedSource", places: Places, missing: Sequence[str]) -> None:
    """Send these parts; the first failure ends it. Each thread has an archive and a client of its own."""
    bundles = _bundles(places, missing)
    stop = threading.Event()
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def send_some(mine: Sequence[Sequence[str]]) -> None:
        own = ApiClient(client.address)
        try:
            with packed.path.open("rb") as archive:
                for bundle in mine:
                    if stop.is_set():
                        return
                    content = b"".join(_framed(archive, *places[sha256]) for sha256 in bundle)
                    own.send_bytes(f"{uploads}/parts", content)
            ended.put(None)
        except Exception as error:
            ended.put(error)
        finally:
            own.close()

    shares = [bundles[first::AT_ONCE] for first in range(min(AT_ONCE, len(bundles)))]
    try:
        for mine in shares:
            # No pool of them: at Ctrl-C nobody waits until a platform that is silent answers.
            threading.Thread(target=send_some, args=(mine,), daemon=True).start()
        for _ in shares:
            if (error := ended.get()) is not None:
                raise error
    finally:
        stop.set()


def _bundles(places: Places, missing: Sequence[str]) -> list[list[str]]:
    bundles: list[list[str]] = []
    room = 0
    for sha256 in missing:
        _, length = places[sha256]
        if not bundles or length > room:
            bundles.append([])
            room = BUNDLE_BYTES
        bundles[-1].append(sha256)
        room -= length
    return bundles


def _framed(archive: IO[bytes], offset: int, length: int) -> bytes:
    archive.seek(offset)
    return length.to_bytes(4, "big") + archive.read(length)
