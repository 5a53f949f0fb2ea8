"""The task queue over gRPC: the same queue as over HTTP, with subscriptions as streams and the same token.

Thin: it turns messages into the queue's values and its refusals into status codes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from api.grpc import queue_pb2 as pb
from api.grpc import queue_pb2_grpc
from api.http.identity import Principal
from api.http.problems import HttpProblem
from events.log.errors import LogError
from events.queue.errors import InvalidTask, QueueFull
from events.queue.port import TaskQueue
from events.queue.task import (
    BACK_OFF_SECONDS,
    MAX_ATTEMPTS,
    VISIBLE_SECONDS,
    Claim,
    ClaimRef,
    Consumer,
    Nacked,
    NewTask,
)

log = structlog.get_logger("api")

MAX_MESSAGE_BYTES = 16 << 20
"""A call's tasks; each has 256 KiB at most."""
MAX_IN_FLIGHT = 1000
CLAIM_SECONDS = 20.0
STOP_SECONDS = 3.0
_BECAME = {Nacked.WAITING: pb.WAITING, Nacked.DEAD: pb.DEAD, Nacked.STALE: pb.STALE}

Gate = Callable[[str], Awaitable[Principal]]
"""The Authorization header → who asks. Raises HttpProblem."""


class TaskQueueServicer(queue_pb2_grpc.TaskQueueServicer):
    """One for all calls; `held` is what open subscriptions wait for the word on."""

    def __init__(self, queue: TaskQueue, gate: Gate) -> None:
        self._queue = queue
        self._gate = gate
        self._streams: dict[ClaimRef, _Stream] = {}

    async def Publish(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        with _Refusals() as refusals:
            published = await self._queue.publish(request.topic, [_new(task) for task in request.tasks])
        await refusals.abort(context)
        return pb.PublishResponse(published=[pb.Published(id=one.id, duplicate=one.duplicate) for one in published])

    async def Subscribe(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter(context)
        stream = _Stream(min(request.in_flight or 1, MAX_IN_FLIGHT))
        consumer = Consumer(name=request.consumer, offers=frozenset(request.offers))
        try:
            while True:
                room = await stream.room()
                with _Refusals() as refusals:
                    claims = await self._queue.claim(request.topic, consumer, most=room, wait_seconds=CLAIM_SECONDS)
                await refusals.abort(context)
                for claim in claims:
                    stream.take(claim.ref)
                    self._streams[claim.ref] = stream
                for claim in claims:
                    yield _claim(claim)
        finally:
            await self._give_back(stream)

    async def _give_back(self, stream: "_Stream") -> None:
        left = list(stream.held)
        for ref in left:
            self._streams.pop(ref, None)
        with suppress(LogError):  # then it lapses with its visibility
            await asyncio.shield(self._queue.nack(left, reason="its subscription ended", delay_seconds=0.0))

    async def Ack(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        refs = _refs(request.claims)
        with _Refusals() as refusals:
            accepted = await self._queue.ack(refs)
        await refusals.abort(context)
        self._let_go(refs)
        return pb.AckResponse(accepted=accepted)

    async def Nack(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        refs = _refs(request.claims)
        delay = request.delay_seconds if request.HasField("delay_seconds") else None
        with _Refusals() as refusals:
            became = await self._queue.nack(refs, reason=request.reason, delay_seconds=delay, dead=request.dead)
        await refusals.abort(context)
        self._let_go(refs)
        return pb.NackResponse(became=[_BECAME[end] for end in became])

    async def Extend(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        with _Refusals() as refusals:
            accepted = await self._queue.extend(_refs(request.claims), seconds=request.seconds)
        await refusals.abort(context)
        return pb.AckResponse(accepted=accepted)

    async def Topics(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        return pb.TopicsResponse(topics=await self._queue.topics())

    async def Stats(self, request: Any, context: Any) -> Any:
        await self._enter(context)
        with _Refusals() as refusals:
            stats = await self._queue.stats(request.topic)
        await refusals.abort(context)
        return pb.TopicStats(
            topic=stats.topic, ready=stats.ready, delayed=stats.delayed, blocked=stats.blocked, parked=stats.parked,
            claimed=stats.claimed, dead=stats.dead, consumers=stats.consumers, oldest_seconds=stats.oldest_seconds,
        )  # fmt: skip

    def _let_go(self, refs: Sequence[ClaimRef]) -> None:
        for ref in refs:
            stream = self._streams.pop(ref, None)
            if stream is not None:
                stream.let_go(ref)

    async def _enter(self, context: Any) -> None:
        """Topics are the platform's own: only the administrator's token opens them."""
        sent = dict(context.invocation_metadata() or ())
        try:
            principal = await self._gate(str(sent.get("authorization", "")))
        except HttpProblem as problem:
            await _abort(context, grpc.StatusCode.UNAUTHENTICATED, problem.detail)
        if principal.team is not None:
            await _abort(context, grpc.StatusCode.NOT_FOUND, "there is no such thing for this token")


class _Stream:
    """What one subscription holds, and room for more."""

    def __init__(self, most: int) -> None:
        self.held: set[ClaimRef] = set()
        self._most = most
        self._freed = asyncio.Event()

    async def room(self) -> int:
        """Wait until there is room; how much."""
        while len(self.held) >= self._most:
            self._freed.clear()
            await self._freed.wait()
        return self._most - len(self.held)

    def take(self, ref: ClaimRef) -> None:
        self.held.add(ref)

    def let_go(self, ref: ClaimRef) -> None:
        self.held.discard(ref)
        self._freed.set()


class _Refusals:
    """Catches what the queue refuses; `abort` then ends the call with it, outside of any handler."""

    def __init__(self) -> None:
        self._code: grpc.StatusCode | None = None
        self._words = ""

    def __enter__(self) -> "_Refusals":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, InvalidTask):
            self._code, self._words = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        elif isinstance(error, QueueFull):
            self._code, self._words = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        elif isinstance(error, LogError):
            log.warning("the queue did not answer", error=f"{type(error).__name__}: {error}")
            self._code, self._words = grpc.StatusCode.UNAVAILABLE, "the queue did not answer; try again"
        return self._code is not None

    async def abort(self, context: Any) -> None:
        if self._code is not None:
            await _abort(context, self._code, self._words)


async def _abort(context: Any, code: grpc.StatusCode, words: str) -> NoReturn:
    await context.abort(code, words)
    raise AssertionError("abort raises")


def _new(task: Any) -> NewTask:
    return NewTask(
        id=task.id,
        payload=task.payload,
        key=task.key,
        team=task.team,
        priority=task.priority,
        needs=tuple(task.needs),
        delay_seconds=task.delay_seconds,
        visible_seconds=task.visible_seconds or VISIBLE_SECONDS,
        max_attempts=task.max_attempts or MAX_ATTEMPTS,
        back_off_seconds=task.back_off_seconds if task.HasField("back_off_seconds") else BACK_OFF_SECONDS,
    )


def _claim(claim: Claim) -> Any:
    ref = claim.ref
    return pb.Claim(
        ref=pb.ClaimRef(topic=ref.topic, task=ref.task, claim=ref.claim),
        payload=claim.task.payload,
        attempt=claim.attempt,
        key=claim.task.key,
        team=claim.task.team,
        published_at_micros=claim.task.published_at,
    )


def _refs(claims: Sequence[Any]) -> list[ClaimRef]:
    return [ClaimRef(topic=ref.topic, task=ref.task, claim=ref.claim) for ref in claims]


async def serve_queue(queue: TaskQueue, gate: Gate, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Listen; returns the server (`await server.stop(grace)` ends it) and the port, chosen where `port` is 0.

    Raises OSError when the port cannot be had.
    """
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 1)])
    servicer = TaskQueueServicer(queue, gate)
    queue_pb2_grpc.add_TaskQueueServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"expected port {port} of {host} to be free for gRPC: {error}") from error
    await server.start()
    return server, bound
