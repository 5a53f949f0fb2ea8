"""The wire: length-prefixed MessagePack messages between the log server and its clients, and the token that opens it.

Knows the messages, not what they make anyone do.
"""

import asyncio
import hmac

import msgspec

from actors.logs.errors import BY_CODE, LogError, ProtocolBroken, StreamMoved, TooFast, WrongPosition
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import MAX_BATCH_BYTES, Batch
from actors.logs.query import StreamStats, TailPiece
from actors.logs.totals import StoreTotals
from actors.logs.view import Appended

VERSION = 1
MAX_FRAME = 2 * MAX_BATCH_BYTES
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of one answer: 10,000 lines of a few KB. An answer beyond it is refused with a word on `limit`."""
HELLO_BYTES = 4096
WINDOW_BYTES = 4 * MAX_BATCH_BYTES
"""Unacknowledged bytes on one connection; beyond it the server reads no further."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """First message of a client: who it is and that it may."""

    version: int = VERSION
    token: str
    node: str = ""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """The server's answer to a good Hello."""

    version: int = VERSION


class Append(msgspec.Struct, frozen=True, kw_only=True, tag="append"):
    """Store `batch`; answered by Done with `appended`, or Refused."""

    id: int
    stream: str
    batch: Batch


class Close(msgspec.Struct, frozen=True, kw_only=True, tag="close"):
    """End a finite stream; answered by Done."""

    id: int
    stream: str
    outcome: str
    at: int


class Where(msgspec.Struct, frozen=True, kw_only=True, tag="where"):
    """How far is `source_id` stored? Answered by Done with `position` (None: unknown)."""

    id: int
    stream: str
    source_id: str


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Answered by Done with `result`."""

    id: int
    query: Query


class AskStats(msgspec.Struct, frozen=True, kw_only=True, tag="ask-stats"):
    """Count lines; answered by Done with `stats`. Times in unix microseconds; `team` as in a query."""

    id: int
    stream: str
    since: int = 0
    until: int = 0
    team: str = ""


class AskTotals(msgspec.Struct, frozen=True, kw_only=True, tag="ask-totals"):
    """What the store counts of itself; answered by Done with `totals`."""

    id: int


class Tail(msgspec.Struct, frozen=True, kw_only=True, tag="tail"):
    """From here on the connection carries only this tail's Piece messages; between members, one such is the answer."""

    id: int
    stream: str
    from_number: int | None
    filter: LineFilter


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The request `id` succeeded."""

    id: int
    appended: Appended | None = None
    position: int | None = None
    result: QueryResult | None = None
    stats: StreamStats | None = None
    totals: StoreTotals | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The request `id` failed: `code` is a `LogError.code`; `stored` goes with wrong-position, `address` with moved,
    `seconds` with too-fast."""

    id: int
    code: str
    message: str
    stored: int = 0
    address: str = ""
    seconds: float = 0.0


class More(msgspec.Struct, frozen=True, kw_only=True, tag="more"):
    """A tail's next piece."""

    id: int
    piece: TailPiece


Request = Hello | Append | Close | Where | Ask | AskStats | AskTotals | Tail
Reply = Welcome | Done | Refused | More

_encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def encode(message: Request | Reply) -> bytes:
    """The message with its length in front (4 bytes, big endian)."""
    body = _encode(message)
    return len(body).to_bytes(4, "big") + body


def refusal(number: int, error: LogError) -> Refused:
    """`error` as the answer to the request `number`."""
    stored = error.stored if isinstance(error, WrongPosition) else 0
    address = error.address if isinstance(error, StreamMoved) else ""
    seconds = error.seconds if isinstance(error, TooFast) else 0.0
    return Refused(id=number, code=error.code, message=str(error), stored=stored, address=address, seconds=seconds)


def raised(reply: Reply) -> LogError:
    """A refusal as the error it was."""
    if not isinstance(reply, Refused):
        return ProtocolBroken(f"expected an answer to the request, found {type(reply).__name__}")
    if reply.code == WrongPosition.code:
        return WrongPosition(reply.message, reply.stored)
    if reply.code == TooFast.code:
        return TooFast(reply.message, reply.seconds)
    if reply.code == StreamMoved.code:
        return StreamMoved(reply.message, reply.address)
    return BY_CODE.get(reply.code, LogError)(reply.message)


async def read_frame(reader: asyncio.StreamReader, limit: int) -> bytes | None:
    """The next message's bytes; None where the peer ended. Raises ProtocolBroken over `limit`, and ConnectionError."""
    try:
        head = await reader.readexactly(4)
        size = int.from_bytes(head, "big")
        if size > limit:
            raise ProtocolBroken(f"expected a message of at most {limit} bytes, found {size}")
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ConnectionResetError("the peer went away in the middle of a message") from error
        return None


def same_token(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())
