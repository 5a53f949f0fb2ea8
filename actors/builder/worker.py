"""Takes builds from the queue and carries each to its end: claim, say that it begins, build, say how it ended, ack.

Its word is only a report: the build's own stream decides which attempt counts, the queue which claim stands. Knows
nothing of Ray.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import structlog

from actors.builder.orders import BUILDS, VISIBLE_SECONDS, order_of
from actors.builder.slots import Slots
from actors.ports import CommandPort
from actors.supervisor.orders import BuildOrder
from events.failpoints import failpoint
from events.log.errors import LogError
from events.model.base import Command, Envelope, Reply
from events.model.build import ENDED, FinishBuild, StartBuild
from events.model.registry import encode_command
from events.queue.port import TaskQueue
from events.queue.task import Claim, Consumer

log = structlog.get_logger("builder")

CLAIM_SECONDS = 30.0
RETRY_FIRST_SECONDS = 0.2
RETRY_MAX_SECONDS = 5.0

Build = Callable[[BuildOrder, int], Awaitable[FinishBuild]]
"""(order, attempt) → how it ended. Cancelled, it stops the build's processes first."""


class BuildWorker:
    """`run` it as one long task. A build is claimed only when there is a slot for it."""

    def __init__(self, *, name: str, queue: TaskQueue, commands: CommandPort, build: Build, slots: Slots) -> None:
        self.name = name
        self.running: dict[str, int] = {}
        """Build id → the claim's number, of what is claimed here."""
        self._queue = queue
        self._commands = commands
        self._build = build
        self._slots = slots
        self._leaving = asyncio.Event()
        self._builds: set[asyncio.Task[None]] = set()
        self._consumer = Consumer(name=name)

    async def run(self) -> None:
        """Work, for ever; once it is to leave it only waits."""
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(self._leaving.wait())
            while True:
                free = await self._slots.acquire()
                claim = await self._next(leaving)
                if claim is None:
                    free()
                    if self._leaving.is_set():
                        await asyncio.Event().wait()
                    continue
                self.running[claim.task.id] = claim.attempt
                task = group.create_task(self._guarded(claim, free), name=f"build {claim.task.id}")
                self._builds.add(task)
                task.add_done_callback(self._builds.discard)

    async def leave(self, *, hand_back: bool) -> None:
        """Claim nothing more; with `hand_back` stop what runs and let others have it."""
        self._leaving.set()
        if hand_back:
            for task in self._builds:
                task.cancel()
            await asyncio.gather(*self._builds, return_exceptions=True)

    async def _next(self, leaving: "asyncio.Task[Literal[True]]") -> Claim | None:
        claiming = asyncio.ensure_future(self._queue.claim(BUILDS, self._consumer, wait_seconds=CLAIM_SECONDS))
        try:
            await asyncio.wait((claiming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not claiming.done():
                return None
            return next(iter(claiming.result()), None)
        except LogError as error:
            log.info("the queue is away", builder=self.name, error=str(error))
            await asyncio.sleep(RETRY_FIRST_SECONDS)
            return None
        finally:
            if not claiming.done():
                claiming.cancel()
                await asyncio.wait((claiming,))

    async def _guarded(self, claim: Claim, free: Callable[[], None]) -> None:
        """One build's fault is its own: the claim goes back, and another attempt is made later."""
        try:
            await self._one(claim)
        except asyncio.CancelledError:
            await asyncio.shield(self._give_back(claim, f"{self.name} leaves", delay_seconds=0.0))
            raise
        except Exception as error:
            log.exception("a build could not be carried through", build=claim.task.id, error=str(error))
            await self._give_back(claim, f"{type(error).__name__}: {error}")
        finally:
            self.running.pop(claim.task.id, None)
            free()

    async def _one(self, claim: Claim) -> None:
        try:
            order = order_of(claim.task.payload)
        except msgspec.DecodeError as error:
            await self._queue.nack([claim.ref], reason=f"not a build order: {error}", dead=True)
            return
        attempt = order.attempts + claim.attempt
        failpoint("builder.claimed")
        started = await self._tell(order, StartBuild(builder=self.name, attempt=attempt), f"start.{attempt}")
        # Refused: it ended already (cancelled while it waited, or its builder died after its last word), or overtaken.
        if started.refusal is None and not await self._is_over(order, attempt):
            failpoint("builder.begun")
            finish = await self._while_it_stands(claim, order, attempt)
            if finish is None:
                return
            failpoint("builder.finished")
            await self._tell(order, finish, f"finish.{attempt}")
            failpoint("builder.told")
        await self._queue.ack([claim.ref])

    async def _is_over(self, order: BuildOrder, attempt: int) -> bool:
        """Whether beginning was what ended it: one attempt too many, or a cancellation that died with its builder."""
        if attempt == 1:
            return False
        again = await self._tell(order, StartBuild(builder=self.name, attempt=attempt), f"begun.{attempt}")
        return again.refusal is not None and again.refusal.code == ENDED

    async def _while_it_stands(self, claim: Claim, order: BuildOrder, attempt: int) -> FinishBuild | None:
        """How the build ended; None, and nothing of it runs here any more, when the claim stands no longer."""
        building = asyncio.ensure_future(self._build(order, attempt))
        try:
            while True:
                done, _ = await asyncio.wait((building,), timeout=VISIBLE_SECONDS / 3)
                if done:
                    return building.result()
                if not await self._still_ours(claim):
                    log.warning("a build's claim was lost, it is stopped here", build=order.build_id, attempt=attempt)
                    return None
        finally:
            if not building.done():
                building.cancel()
                await asyncio.wait((building,))

    async def _still_ours(self, claim: Claim) -> bool:
        try:
            [stands] = await self._queue.extend([claim.ref], seconds=VISIBLE_SECONDS)
        except LogError:
            return True  # nobody can have claimed it meanwhile without the queue
        return stands

    async def _give_back(self, claim: Claim, reason: str, *, delay_seconds: float | None = None) -> None:
        try:
            await self._queue.nack([claim.ref], reason=reason, delay_seconds=delay_seconds)
        except LogError as error:
            log.info("a claim is left to lapse", build=claim.task.id, error=str(error))

    async def _tell(self, order: BuildOrder, command: Command, what: str) -> Reply:
        """Until it arrives: the same id each time, so that it counts once."""
        envelope = Envelope(
            stream=f"build/{order.build_id}",
            command=encode_command(command),
            command_id=f"{order.build_id}.{what}",
            correlation_id=order.operation,
        )
        wait = RETRY_FIRST_SECONDS
        while True:
            [reply] = await self._commands.submit([envelope])
            if not reply.error:
                return reply
            log.info("a build's word did not arrive yet", build=order.build_id, error=reply.error_message)
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_MAX_SECONDS)
