"""What a fold in a process of its own prints: the hash of each stream's state, or of each state on the way.

Runs in `fold_once`'s process; must not ask for a clock, a seed or the environment, which are what it is run under.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from events.model.registry import aggregate_of, decode_event, initial_state
from events.replay.history import place_of
from events.replay.imported import HistoryFile
from events.replay.whatif import Reducer, load_reducer


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a stream after `version` events. `error`: why it could not be folded so far; `state` on demand."""

    stream: str
    version: int
    sha256: str = ""
    error: str = ""
    state: msgspec.Raw = msgspec.Raw(b"null")


def print_folds(
    file: Path, *, to: TextIO, reducer: str, directory: Path, only: Sequence[str], each: str, state_at: int
) -> None:
    """Fold the file's streams, or `only` some, and write a `Folded` for each; of stream `each` one for each event."""
    opened = HistoryFile.open(file)
    apply = load_reducer(reducer, directory=directory) if reducer else None
    streams = [each] if each else [line.stream for line in opened.streams if not only or line.stream in only]
    for stream in streams:
        told = asyncio.run(_fold(opened, stream, apply, state_at=state_at))
        for folded in told if each else told[-1:]:
            to.write(msgspec.json.encode(folded).decode() + "\n")
        # An `apply` may end the process without a word: what was told until then shows at which stream.
        to.flush()


async def _fold(file: HistoryFile, stream: str, apply: Reducer | None, *, state_at: int) -> list[Folded]:
    """After each event, up to one that cannot be folded; with `state_at`, only after so many, with the state."""
    state: object = initial_state(stream)
    aggregate = aggregate_of(stream)
    told: list[Folded] = []
    async for block in file.read(place_of(file, stream), 0, stream=stream):
        for stored in block:
            version = stored.record.version
            try:
                event = decode_event(stored.record)
                state = (apply or aggregate.apply)(state, event, stored.record.at)  # type: ignore[arg-type]
            except (Exception, SystemExit) as error:
                what = f"{type(error).__name__}: {error}"
                return [*told, Folded(stream=stream, version=version, error=what)]
            if version == state_at:
                return [
                    Folded(
                        stream=stream,
                        version=version,
                        sha256=digest_of(state),
                        state=msgspec.Raw(msgspec.json.encode(state)),
                    )
                ]
            told.append(Folded(stream=stream, version=version, sha256=digest_of(state)))
    return told


def digest_of(state: object) -> str:
    """SHA-256 of a state as JSON, the order of its maps included: effects are taken in that order."""
    return hashlib.sha256(msgspec.json.encode(state)).hexdigest()
