"""Sets a stream aside that cannot be handled, so that its partition's others go on: three tries, then a person decides.

From the second try on each is an event before it is made, for it may take the whole process along; which stream a
process had in hand when it died stands in a file that outlives it. Knows nothing of what is done with a stream.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable

import structlog

from actors.supervisor.entity import Entity
from events.hand import Hand
from events.model.base import Command, Envelope, Refusal, Reply
from events.model.folding import Poisoned
from events.model.parked import (
    FOLD,
    KIND,
    MAX_TRIES,
    NoteSuccess,
    NoteTry,
    Park,
    ParkedState,
    ParkedStatus,
    parked_stream,
)
from events.model.registry import encode_command

log = structlog.get_logger("parking")

AGAIN_SECONDS = 5.0  # before a stream that failed is tried again
ERROR_CHARACTERS = 500
DIED = "the process died in it"


def parked_refusal(state: ParkedState) -> Refusal:
    """What a command for a parked stream gets."""
    return Refusal(
        code="conflict",
        message=f"{state.stream} is parked: {state.handler} failed {state.tries} times: {state.error}",
        hint=f"rayfold parked show {state.stream}",
    )


class Parking:
    """What could not be handled of one partition's streams. `decide` brings a command about it into the log."""

    def __init__(
        self,
        *,
        hand: Hand,
        decide: Callable[[Envelope], Awaitable[Reply]],
        settle: Callable[[Entity], None],
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self.hand = hand
        self._decide = decide
        self._settle = settle
        self._again_seconds = again_seconds
        self._states: dict[str, ParkedState] = {}
        self._errors: dict[str, str] = {}
        self._trying: dict[str, asyncio.Task[None]] = {}
        self._admitted: set[str] = set()

    def learn(self, entity: Entity) -> str:
        """What the log says of a stream that could not be handled; returns that stream's name. Call it whenever a
        stream of that kind has changed, and is durable."""
        stream = entity.stream.removeprefix(f"{KIND}/")
        assert isinstance(entity.state, ParkedState)  # noqa: S101 -- its kind says so
        if entity.state.status is ParkedStatus.CLEAR and not (entity.state.skipped or entity.state.left_out):
            self._states.pop(stream, None)
        else:
            self._states[stream] = entity.state
        return stream

    @property
    def states(self) -> list[ParkedState]:
        """What is parked."""
        return [state for state in self._states.values() if state.status is ParkedStatus.PARKED]

    def parked(self, stream: str) -> ParkedState | None:
        """Why a stream is set aside; None when it is not."""
        state = self._states.get(stream)
        return state if state is not None and state.status is ParkedStatus.PARKED else None

    def may_go_on(self, entity: Entity) -> bool:
        """Whether what follows from the entity's state may be looked for now."""
        if not self._states and not self._trying and not self.hand.left:
            return True
        stream = entity.stream
        state = self._states.get(stream)
        if stream in self._admitted:
            return True
        if stream in self._trying:
            return False
        if state is not None and (state.status is ParkedStatus.PARKED or entity.version in state.skipped):
            return False
        if self.hand.left and stream.encode() == self.hand.left:
            self.hand.left = b""
            self._try_later(entity, "progress", DIED)
            return False
        if state is not None and state.status is ParkedStatus.SUSPECT:
            self._try_later(entity, state.handler, state.error or DIED)
            return False
        return True

    def failed(self, entity: Entity, handler: str, error: Exception) -> None:
        """It was tried and failed: it will be tried again, or be parked."""
        log.error("a stream could not go on", stream=entity.stream, handler=handler, exc_info=error)
        self._try_later(entity, handler, f"{type(error).__name__}: {error}")

    def succeeded(self, entity: Entity) -> None:
        """It was handled."""
        state = self._states.get(entity.stream)
        if state is not None and state.status is ParkedStatus.SUSPECT and entity.stream in self._admitted:
            self._admitted.discard(entity.stream)
            self._keep(entity.stream, self._tell(entity.stream, NoteSuccess()))

    def close(self) -> list["asyncio.Task[None]"]:
        """Cancel what is still to be tried; returns the tasks, to be waited for."""
        for task in self._trying.values():
            task.cancel()
        return list(self._trying.values())

    def poisoned(self, stream: str, fault: Poisoned) -> None:
        """A stream could not be folded: it is parked. Folding is the same each time: one try tells as much as three."""
        state = self._states.get(stream)
        if state is None or state.status is not ParkedStatus.PARKED:
            error = f"{fault.error}; {fault.behind} events behind it wait"
            park = Park(stream=stream, handler=FOLD, version=fault.version, tries=1, error=error)
            self._keep(stream, self._tell(stream, park))

    def left_out(self, stream: str) -> tuple[int, ...]:
        """The versions of a stream's events that a person wants left out."""
        state = self._states.get(stream)
        return state.left_out if state is not None else ()

    # --- trying again -------------------------------------------------------------------------------------------------

    def _try_later(self, entity: Entity, handler: str, error: str) -> None:
        self._admitted.discard(entity.stream)
        self._keep(entity.stream, self._try_again(entity, handler, error[:ERROR_CHARACTERS]))

    async def _try_again(self, entity: Entity, handler: str, error: str) -> None:
        state = self._states.get(entity.stream)
        tries = max(1, state.tries if state is not None else 0)
        stream, version = entity.stream, entity.version
        if tries >= MAX_TRIES:
            park = Park(stream=stream, handler=handler, version=version, tries=tries, error=error)
            await self._tell(stream, park)
            return
        await asyncio.sleep(self._again_seconds if error != DIED else 0)
        again = NoteTry(stream=stream, handler=handler, version=version, number=tries + 1, error=error)
        await self._tell(stream, again)
        self._admitted.add(stream)
        self._trying.pop(stream, None)
        self._settle(entity)

    async def _tell(self, stream: str, command: Command) -> None:
        """Bring it into the log, however long that takes."""
        about = parked_stream(stream)
        ident = f"{type(command).__name__}.{os.urandom(8).hex()}"
        envelope = Envelope(stream=about, command=encode_command(command), command_id=ident)
        while (reply := await self._decide(envelope)).error:
            log.info("what could not be handled is not told yet", stream=stream, error=reply.error_message)
            await asyncio.sleep(self._again_seconds)

    def _keep(self, stream: str, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._trying[stream] = task
        task.add_done_callback(lambda done: self._ended(stream, done))

    def _ended(self, stream: str, task: "asyncio.Future[None]") -> None:
        if self._trying.get(stream) is task:
            del self._trying[stream]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a stream that failed will not be tried again here", stream=stream, exc_info=error)
