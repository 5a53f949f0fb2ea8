"""Queries and tails of any stream at any member: answered here where the stream is, else by asking whoever has it.

A tail of another's stream is asked for piece by piece, each from where the last one ended: a reader that takes nothing
asks for nothing, and when the stream moves the next piece comes from its new place.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from actors.logs.errors import LogError, ProtocolBroken, StreamMoved, Unreachable
from actors.logs.line import check_stream_name
from actors.logs.mesh import Mesh
from actors.logs.pool import PoolMember
from actors.logs.protocol import (
    Append,
    Ask,
    AskStats,
    AskTotals,
    Close,
    Done,
    More,
    Refused,
    Reply,
    Request,
    Tail,
    raised,
)
from actors.logs.query import IDLE_SECONDS, QUERY_SECONDS, TailPiece, follow
from actors.logs.search import Searcher
from actors.logs.store import LogStore
from actors.logs.totals import StoreTotals

WRITE_SECONDS = 10.0
_TRIES = 10
TOTALS_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
"""Between tries while a stream is on its way from one member to another."""


class Member(Protocol):
    """What is needed of a server."""

    store: LogStore
    searcher: Searcher
    pool: PoolMember | None
    mesh: Mesh | None

    async def answer(self, request: Request) -> Reply:
        """Answer from this member's own streams."""
        ...


async def ask(member: Member, request: Ask | AskStats) -> Reply:
    """The answer to a query. Raises LogError."""
    stream = request.query.stream if isinstance(request, Ask) else request.stream
    for left in reversed(range(_TRIES)):
        try:
            other = await _elsewhere(member, stream)
            if not other:
                return await member.answer(request)
            return await _ask_other(member, other, request, QUERY_SECONDS * 2)
        except (StreamMoved, Unreachable):
            if not left:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
    raise AssertionError("unreachable: the last try returns or raises")


async def totals(member: Member, request: AskTotals) -> Reply:
    """What all members together counted; one that does not answer is left out. Raises LogError."""
    reply = await member.answer(request)
    told = (reply.totals if isinstance(reply, Done) else None) or StoreTotals()
    members = member.mesh.loads().keys() - {member.mesh.member} if member.mesh is not None else set()
    for other in sorted(members):
        try:
            reply = await _ask_other(member, other, request, TOTALS_SECONDS)
        except LogError:
            continue
        if isinstance(reply, Done) and reply.totals is not None:
            told = told.plus(reply.totals)
    return Done(id=request.id, totals=told)


async def write(member: Member, request: Append | Close) -> Reply:
    """Store lines of a finite stream, or end it, wherever it is. Raises LogError."""
    other = await _elsewhere(member, request.stream)
    return await _ask_other(member, other, request, WRITE_SECONDS) if other else await member.answer(request)


async def follow_anywhere(member: Member, request: Tail) -> AsyncIterator[TailPiece]:
    """As `query.follow`, wherever the stream is and goes. Raises LogError."""
    tries = _TRIES
    while True:
        try:
            if other := await _elsewhere(member, request.stream):
                reply = await _ask_other(member, other, request, IDLE_SECONDS * 3)
                if not isinstance(reply, More):
                    raise ProtocolBroken(f"expected a piece of a tail, found {type(reply).__name__}")
                pieces = _one(reply.piece)
            else:
                pieces = follow(member.store, member.searcher, request.stream, request.from_number, request.filter)
            async for piece in pieces:
                tries = _TRIES
                request = msgspec.structs.replace(request, from_number=piece.next_number)
                yield piece
                if piece.closed:
                    return
        except (StreamMoved, Unreachable):
            tries -= 1
            if not tries:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


async def _one(piece: TailPiece) -> AsyncIterator[TailPiece]:
    yield piece


async def _elsewhere(member: Member, stream: str) -> str:
    return "" if member.pool is None else await member.pool.elsewhere(check_stream_name(stream))


async def _ask_other(member: Member, other: str, request: Request, seconds: float) -> Reply:
    assert member.mesh is not None  # noqa: S101 (there is another)
    reply = await member.mesh.ask(other, request, seconds)
    if isinstance(reply, Refused):
        raise raised(reply)
    return reply
