"""The gRPC intake of operation and build logs: a stream of messages each way, at any member, on a unix socket.

Both ends prove that they hold the node's log token without sending it. Knows messages; what a member does with them is
handed in.
"""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast, get_args

import grpc

from actors.logs.errors import BadBatch, LogError, WrongPosition
from actors.logs.intake import lines_pb2
from actors.logs.line import MAX_BATCH_BYTES, Batch, LineRecord, Source
from actors.logs.protocol import Append, Close, Done, Refused, Reply, raised

SERVICE = "rayfold.logs.v1.LogIntake"
METHOD = "Write"
NONCE = "rayfold-nonce"
PROOF = "rayfold-proof"
OPTIONS = [("grpc.max_receive_message_length", 2 * MAX_BATCH_BYTES), ("grpc.http2.max_ping_strikes", 0)]
_IN_FLIGHT = 64
"""Writes of one stream of messages that are being stored; the next one is not read before."""

Write = Callable[[Append | Close], Awaitable[Reply]]
_Context = grpc.aio.ServicerContext[lines_pb2.WriteRequest, lines_pb2.WriteReply]


def proof(token: str, side: str, nonce: str) -> str:
    """What `side` (client, server) says to show that it has the token."""
    return hmac.new(token.encode(), f"{side} {nonce}".encode(), hashlib.sha256).hexdigest()


class LogIntake:
    """Serves `write` at `socket`. Use `start` before, `aclose` after."""

    def __init__(self, socket: Path, token: str, write: Write) -> None:
        self._socket = socket
        self._token = token
        self._write = write
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket that an earlier process left is replaced."""
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=lines_pb2.WriteRequest.FromString,
            response_serializer=lines_pb2.WriteReply.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()

    async def aclose(self) -> None:
        """Cut the streams: what was not answered is sent again elsewhere."""
        if self._server is not None:
            await self._server.stop(grace=None)
        self._socket.unlink(missing_ok=True)

    async def _stream(
        self, requests: AsyncIterator[lines_pb2.WriteRequest], context: _Context
    ) -> AsyncIterator[lines_pb2.WriteReply]:
        await self._admit(context)
        replies: asyncio.Queue[lines_pb2.WriteReply | None] = asyncio.Queue()
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def answer(request: lines_pb2.WriteRequest) -> None:
            replies.put_nowait(await self._answer(request))
            slots.release()

        async def read() -> None:
            async with asyncio.TaskGroup() as answers:
                async for request in requests:
                    await slots.acquire()
                    answers.create_task(answer(request))
            replies.put_nowait(None)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            while (reply := await replies.get()) is not None:
                yield reply

    async def _admit(self, context: _Context) -> None:
        said = {key: str(value) for key, value in context.invocation_metadata() or ()}
        nonce = said.get(NONCE, "")
        if len(nonce) < 16 or not hmac.compare_digest(said.get(PROOF, ""), proof(self._token, "client", nonce)):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected a proof of this node's log token")
        await context.send_initial_metadata(((PROOF, proof(self._token, "server", nonce)),))

    async def _answer(self, request: lines_pb2.WriteRequest) -> lines_pb2.WriteReply:
        try:
            reply = await self._write(_from_wire(request))
        except LogError as error:
            stored = error.stored if isinstance(error, WrongPosition) else 0
            return lines_pb2.WriteReply(id=request.id, code=error.code, message=str(error), stored=stored)
        if not isinstance(reply, Done):
            code = reply.code if isinstance(reply, Refused) else "protocol-broken"
            stored = reply.stored if isinstance(reply, Refused) else 0
            return lines_pb2.WriteReply(id=request.id, code=code, message=str(raised(reply)), stored=stored)
        answer = lines_pb2.WriteReply(id=request.id)
        if reply.appended is not None:
            answer.first, answer.next_number = reply.appended.first, reply.appended.next_number
            answer.duplicate = reply.appended.duplicate
        return answer


def _source(name: str) -> Source:
    if name not in get_args(Source):
        raise BadBatch(f"expected a source among {get_args(Source)}, found {name[:80]!r}")
    return cast(Source, name)


def _from_wire(request: lines_pb2.WriteRequest) -> Append | Close:
    if request.outcome:
        return Close(id=0, stream=request.stream, outcome=request.outcome, at=request.at_micros)
    lines = [
        LineRecord(
            at=line.at_micros,
            text=line.text,
            source=_source(line.source),
            instance=line.instance,
            release=line.release,
            partial=line.partial,
            gap=line.gap,
        )
        for line in request.lines
    ]
    batch = Batch.of(request.source_id, lines, after=request.after, upto=request.upto)
    return Append(id=0, stream=request.stream, batch=batch)
