"""What one commit is to write: each batch is numbered, checked against its source's position, and framed, or refused.

Pure; knows nothing of files.
"""

from actors.logs import shimlog
from actors.logs.errors import BadBatch, LogError, StreamClosed, WrongPosition
from actors.logs.line import Batch, check_records, decode_records
from actors.logs.segment import Closed, FrameMeta, SourceMark, encode_frame
from actors.logs.view import Appended

NO_LINES = b"\x90"
"""An empty MessagePack array."""


class Plan:
    """The batches of one commit, checked one after the other as if each were already stored."""

    def __init__(self, next_number: int, sources: dict[str, SourceMark], closed: Closed | None) -> None:
        self.frames: list[bytes] = []
        self.metas: list[FrameMeta] = []
        self._next = next_number
        self._stored = sources
        self._new: dict[str, SourceMark] = {}
        self._closed = closed

    def add(self, item: Batch | Closed) -> Appended | LogError:
        """The answer for `item`; its frame is added when it is to be stored."""
        try:
            return self._add(item) if isinstance(item, Batch) else self._close(item)
        except LogError as error:
            return error

    def _close(self, closed: Closed) -> Appended:
        again = self._closed is not None
        if not again:
            meta = FrameMeta(closed=closed)
            self.frames.append(encode_frame(self._next, 0, (closed.at, closed.at), meta, NO_LINES))
            self.metas.append(meta)
            self._closed = closed
        return Appended(first=self._next, next_number=self._next, duplicate=again)

    def _add(self, batch: Batch) -> Appended:
        batch.check()
        records = [] if batch.origin else decode_records(batch.blob)
        span = shimlog.check(batch.blob) if batch.origin else check_records(records)
        known = self._new.get(batch.source_id) or self._stored.get(batch.source_id)
        if known is not None and batch.upto <= known.upto and (known.finished or not batch.finished):
            return Appended(first=self._next, next_number=self._next, duplicate=True)
        if self._closed is not None:
            raise StreamClosed(f"expected an open stream, found one that ended: {self._closed.outcome}")
        if known is not None and batch.after != known.upto:
            raise WrongPosition(f"expected a batch after {known.upto}, found one after {batch.after}", known.upto)
        if batch.upto == batch.after and span.taken:
            raise BadBatch(f"expected lines to take up room in their source, found {span.taken} at {batch.after}")
        mark = SourceMark(source_id=batch.source_id, upto=batch.upto, finished=batch.finished)
        gaps = any(record.gap for record in records)
        meta = FrameMeta(sources=(mark,), origin=batch.origin, gaps=gaps)
        self.frames.append(encode_frame(self._next, span.taken, (span.t_min, span.t_max), meta, batch.blob))
        self.metas.append(meta)
        self._new[batch.source_id] = mark
        first, self._next = self._next, self._next + span.taken
        return Appended(first=first, next_number=self._next)
