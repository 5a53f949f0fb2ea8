"""Where commands wait, bounded and fairly, on their way to the supervisor that owns their partition.

Whatever gathers while a call is on its way becomes the next call. One to an owner on this machine goes over its socket,
to any other it is a Ray call. Knows owners by name only; whose word counts is decided by the log.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence

import msgspec
import structlog

from actors.cluster.channel import Channels, NoChannel
from actors.cluster.directory import ActorBusy, ActorUnreachable, Directory, sockets_here
from actors.cluster.fair import FairGate
from actors.cluster.settings import PlatformSettings
from events.log.errors import LogError
from events.log.port import EventLog
from events.log.records import partition_of
from events.model.base import Envelope, Reply, partition_key

log = structlog.get_logger("router")

SUBMIT_SECONDS = 15.0  # how long a command looks for an owner before it is refused as unavailable
RETRY_FIRST_SECONDS = 0.02
RETRY_MAX_SECONDS = 0.25
ASK_SECONDS = 2.0  # between looks at whether a partition without an owner is one that cannot have any
SUPERVISORS = "supervisor"
BATCH_COMMANDS = 256
BATCH_BYTES = 4 << 20
CALLS_AT_ONCE = 8  # to one owner: some are being decided or wait for the log while the next ones travel
WAITING_COMMANDS = 8_192
WAITING_BYTES = 64 << 20
_RETRYABLE = ("not_owner", "unavailable")

_encode = msgspec.msgpack.Encoder().encode
_replies = msgspec.msgpack.Decoder(list[Reply]).decode


class _Command:
    """One on its way, until `answer`."""

    __slots__ = ("answer", "deadline", "envelope", "partition", "size", "tries")

    def __init__(self, envelope: Envelope, partition: int, size: int, deadline: float) -> None:
        self.envelope = envelope
        self.partition = partition
        self.size = size
        self.deadline = deadline
        self.tries = 0
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


class _Lane:
    """Commands that wait for one owner, by team; taken in turns, those of a team in their order."""

    def __init__(self) -> None:
        self.teams: dict[str, deque[_Command]] = {}
        self.calls = 0

    def put(self, command: _Command) -> None:
        self.teams.setdefault(command.envelope.team, deque()).append(command)

    def take(self) -> list[_Command]:
        """The next call's commands, one of each team in turn."""
        batch: list[_Command] = []
        size = 0
        while self.teams and len(batch) < BATCH_COMMANDS and size < BATCH_BYTES:
            for team in list(self.teams):
                waiting = self.teams[team]
                command = waiting.popleft()
                if not waiting:
                    del self.teams[team]
                size += command.size
                batch.append(command)
        return batch

    def take_all(self) -> list[_Command]:
        """Everything that waits."""
        found: list[_Command] = []
        while batch := self.take():
            found += batch
        return found


class Router:
    """A CommandPort: finds the supervisor that owns a stream's partition, and asks again while ownership moves."""

    def __init__(self, *, event_log: EventLog, directory: Directory, channels: Channels) -> None:
        self._log = event_log
        self._directory = directory
        self._channels = channels
        self._owners: dict[int, str] = {}
        self._lanes: dict[str, _Lane] = {}
        self._homeless: dict[int, list[_Command]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.gate = FairGate(things=WAITING_COMMANDS, size=WAITING_BYTES)

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        """See CommandPort. What finds no room is answered `overloaded` at once."""
        answers = [self._enter(envelope) for envelope in envelopes]
        return [answer if isinstance(answer, Reply) else await answer for answer in answers]

    def _enter(self, envelope: Envelope) -> "Reply | asyncio.Future[Reply]":
        size = len(envelope.command)
        team = envelope.team
        if not self.gate.enter(team, size):
            message = f"{self.gate.things} commands wait already; those of {team or 'the platform'} have their share"
            return Reply(command_id=envelope.command_id, error="overloaded", error_message=message)
        partition = partition_of(partition_key(envelope.stream), self._log.partitions)
        command = _Command(envelope, partition, size, asyncio.get_running_loop().time() + SUBMIT_SECONDS)
        self._route(command)
        return command.answer

    def _route(self, command: _Command) -> None:
        owner = self._owners.get(command.partition)
        if owner is not None:
            lane = self._lanes.setdefault(owner, _Lane())
            lane.put(command)
            if lane.calls < CALLS_AT_ONCE:
                lane.calls += 1
                self._keep(self._serve(owner, lane))
        elif command.partition in self._homeless:
            self._homeless[command.partition].append(command)
        else:
            self._homeless[command.partition] = [command]
            self._keep(self._find_home(command.partition))

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("commands were lost on their way", exc_info=error)

    def _answer(self, command: _Command, reply: Reply) -> None:
        self.gate.leave(command.envelope.team, command.size)
        if not command.answer.done():  # else whoever waited has given up
            command.answer.set_result(reply)

    # --- to a known owner ---------------------------------------------------------------------------------------------

    async def _serve(self, owner: str, lane: _Lane) -> None:
        """Call after call until nothing waits for this owner."""
        try:
            while batch := lane.take():
                await self._call(owner, batch)
        finally:
            lane.calls -= 1

    async def _call(self, owner: str, batch: list[_Command]) -> None:
        try:
            replies = _replies(await self._ask(owner, _encode([command.envelope for command in batch])))
        except ActorBusy as error:
            replies = [_error(command, "overloaded", str(error)) for command in batch]
        except Exception as error:
            # Unreachable, or whatever it raised: the ids make it safe to ask whoever serves the partition then.
            replies = [_error(command, "unavailable", str(error)) for command in batch]
            # Its other partitions must not each wait as long to find out.
            self._owners = {partition: name for partition, name in self._owners.items() if name != owner}
            for waiting in self._lanes.pop(owner, _Lane()).take_all():
                self._route(waiting)
        again: list[_Command] = []
        now = asyncio.get_running_loop().time()
        for command, reply in zip(batch, replies, strict=True):
            if reply.error in _RETRYABLE and command.deadline > now:
                command.tries += 1
                if self._owners.get(command.partition) == owner:
                    del self._owners[command.partition]
                again.append(command)
            else:
                final = "unavailable" if reply.error == "not_owner" else reply.error
                self._answer(command, msgspec.structs.replace(reply, error=final) if final != reply.error else reply)
        # All at once and in order, after every owner that has changed is forgotten.
        for command in again:
            self._route(command)

    async def _ask(self, owner: str, commands: bytes) -> bytes:
        try:
            return await self._channels.call(owner, commands, seconds=SUBMIT_SECONDS)
        except NoChannel:
            answer: bytes = await self._directory.call(owner, "submit", commands, seconds=SUBMIT_SECONDS)
            return answer

    # --- to one that must be found ------------------------------------------------------------------------------------

    async def _find_home(self, partition: int) -> None:
        """Ask who owns the partition until somebody does; those whose time is up are answered."""
        loop = asyncio.get_running_loop()
        why = f"nobody serves partition {partition} yet"
        # Whoever has just been asked in vain is not asked again at once.
        tries = max(command.tries for command in self._homeless[partition])
        wait = min(RETRY_FIRST_SECONDS * 2 ** min(tries, 8), RETRY_MAX_SECONDS)
        if tries > 1:
            await asyncio.sleep(wait)
        ask_at = loop.time() + RETRY_MAX_SECONDS
        while self._homeless[partition]:
            try:
                record = await self._log.owner_of(partition)
            except LogError as error:
                record, why = None, str(error)
            if record is not None and await self._serves(record.owner, partition):
                self._owners[partition] = record.owner
                break
            if record is None and loop.time() >= ask_at:
                if unreadable := await self._unreadable(partition):
                    for command in self._homeless.pop(partition):
                        self._answer(command, _error(command, "unreadable", unreadable))
                    return
                ask_at = loop.time() + ASK_SECONDS
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX_SECONDS)
            now = loop.time()
            late = [command for command in self._homeless[partition] if command.deadline <= now]
            self._homeless[partition] = [c for c in self._homeless[partition] if c.deadline > now]
            for command in late:
                self._answer(command, _error(command, "unavailable", why))
        for command in self._homeless.pop(partition):
            self._route(command)

    async def _serves(self, owner: str, partition: int) -> bool:
        """Whether it does now: a command sent to one that only claims it would come back as often as it is sent."""
        try:
            return bool(await self._directory.call(owner, "serves", partition, seconds=SUBMIT_SECONDS / 5))
        except Exception as error:
            log.info("an owner does not say whether it serves", actor=owner, error=f"{type(error).__name__}: {error}")
            return False

    async def _unreadable(self, partition: int) -> str:
        """Why nobody serves the partition, where waiting would be in vain; empty where it is not known to be."""
        try:
            names = await self._directory.names(SUPERVISORS)
            asking = (self._directory.call(name, "unserved", seconds=SUBMIT_SECONDS / 5) for name in names)
            told = await asyncio.gather(*asking, return_exceptions=True)
        except ActorUnreachable:
            return ""
        found = (answer.get(partition, "") for answer in told if isinstance(answer, dict))
        return next(filter(None, found), "")


def make_router(settings: PlatformSettings, event_log: EventLog, directory: Directory) -> Router:
    """The router of an actor of the platform, which asks those of its machine at their sockets."""
    return Router(event_log=event_log, directory=directory, channels=Channels(sockets_here(settings.run_dir)))


def _error(command: _Command, error: str, message: str) -> Reply:
    return Reply(command_id=command.envelope.command_id, error=error, error_message=message)
