"""The parts of a stream that are read at once: blocks of sealed segments, runs of frames of others, and their bytes.

Blocking and without state. Knows where bytes are; nothing of what is looked for in them.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from actors.logs.errors import StreamMoved
from actors.logs.sealed import Block, Entry, block_path, is_sealed, open_index
from actors.logs.segment import Block as Frames
from actors.logs.segment import Damaged, Frame, frames, index_segment, is_sound
from actors.logs.view import Extent, StreamView


class Away(Exception):
    """The block file is in the archive."""

    def __init__(self, index: str) -> None:
        self.index = index


class Gone(Exception):
    """The file has been sealed or dropped since the view was made: the next call sees which."""


class Part(NamedTuple):
    """What is read at once: numbers from `first` on, `cost` stored bytes, times; where it is, and its entry if sealed.

    `next` is 0 where it is not known without reading.
    """

    first: int
    next: int
    cost: int
    t_min: int
    t_max: int
    extent: Extent
    offset: int
    entry: Entry | None = None


@lru_cache(maxsize=2048)
def _hot_index(path: str, size: int) -> tuple[Frames, ...]:
    return index_segment(Path(path), size)


def as_it_is(view: StreamView) -> StreamView:
    """The view with the segments that were sealed since it was made in their new form, and without those dropped."""
    extents: list[Extent] = []
    if view.extents and not Path(view.extents[0].path).parent.is_dir():
        raise StreamMoved(f"stream {view.name}: another process has claimed it since; ask again")
    for extent in view.extents:
        index = Path(extent.path).with_suffix(".idx")
        if Path(extent.path).exists():
            extents.append(extent)
        elif index.exists():
            extents.append(Extent(extent.first, str(index), extent.size))
    return view if extents == [*view.extents] else msgspec.structs.replace(view, extents=tuple(extents))


def parts_of(view: StreamView, extent: Extent) -> list[Part]:
    """The parts of one of the view's segments; none where its index is damaged. Raises Gone."""
    try:
        if is_sealed(extent.path):
            return [
                Part(e.first, e.next, e.size, e.t_min, e.t_max, extent, e.offset, e)
                for e in open_index(extent.path).index.blocks
            ]
        last = extent is view.extents[-1]
        blocks = view.blocks if last else _hot_index(extent.path, extent.size)
        return [Part(b.first, 0, b.end - b.offset, b.t_min, b.t_max, extent, b.offset) for b in blocks]
    except FileNotFoundError:
        raise Gone from None
    except Damaged:
        # The hole in the numbers will be said.
        return []


def stored_parts(view: StreamView) -> Iterator[tuple[int, int, int, Entry | None]]:
    """Each part's first number, the number that follows it, its stored bytes, and its entry where it is sealed."""
    view = as_it_is(view)
    for position, extent in enumerate(view.extents):
        try:
            parts = parts_of(view, extent)
        except Gone:
            continue
        end = view.extents[position + 1].first if position + 1 < len(view.extents) else view.next_number
        for place, part in enumerate(parts):
            following = parts[place + 1].first if place + 1 < len(parts) else end
            yield part.first, part.next or following, part.cost, part.entry


def frames_in(part: Part) -> Iterator[tuple[Frame, bytes]]:
    """The sound frames of an unsealed part that hold lines, each with the bytes that it lies in. Raises Gone."""
    try:
        with Path(part.extent.path).open("rb") as file:
            file.seek(part.offset)
            data = file.read(part.cost)
    except FileNotFoundError:
        raise Gone from None
    try:
        for frame in frames(data):
            if frame.taken and is_sound(data, frame):
                yield frame, data
    except Damaged:
        return


def block_in(part: Part, entry: Entry) -> Block:
    """The block of a sealed part, from here or as fetched from the archive. Raises Away, Gone."""
    for where in (block_path, fetched_path):
        try:
            with where(part.extent.path).open("rb") as file:
                file.seek(entry.offset)
                return Block(file.read(entry.size), entry)
        except FileNotFoundError:
            continue
    if not Path(part.extent.path).exists():
        raise Gone
    raise Away(part.extent.path)


def fetched_path(index: str) -> Path:
    """Where a block file that was fetched from the archive is, for the index at this path."""
    path = Path(index)
    digest = open_index(index).index.digest
    return path.parents[2] / "fetched" / f"{digest}.blk"
