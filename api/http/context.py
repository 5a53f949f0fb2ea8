"""What every handler shares: the services, the live feed, the read models, the measures, and how a command is sent.

One for each app; it knows nothing of routes or of HTTP's wire.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from actors.cluster.fair import FairGate
from api.http.call import Call
from api.http.damage import Damage
from api.http.deadlines import Deadlines
from api.http.eventview import Owners, event_view
from api.http.feed import Feed
from api.http.identity import Gatekeeper
from api.http.measures import Metrics
from api.http.parts import Parts
from api.http.problems import of_error, of_refusal
from api.http.reads import Reads
from api.http.schema import Accepted, EventView
from api.http.services import Services
from events.log.records import partition_of
from events.model.base import Command, Envelope, Refusal, Reply, partition_key
from events.model.registry import encode_command
from events.replay.errors import NoSuchStream
from events.replay.history import history

BODIES = 2_000  # requests with a body at once, of all teams
BODY_BYTES = 128 << 20  # of them together: so much memory at most, whoever sends however much
PARTS_UPLOADS = 4  # the room of a team's parts of uploads, in uploads of the largest size
JOINS = 2  # of parts to an upload at once; each reads and writes as fast as the disk does
MAX_EVENTS_BETWEEN = 100  # in a 412: the newest ones


class Context:
    """The state of one app: none that a restart would miss."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.damage = Damage(services.log)
        self.feed = Feed(services.log, on_damage=lambda partition, error: self.damage.note(error))
        self.reads = Reads(services.database, services.log)
        self.owners = Owners(self.reads)
        self.metrics = Metrics(lambda: self.feed.clients)
        self.gatekeeper = Gatekeeper(services.admin_token, self.reads.token)
        self.streams: set[asyncio.Task[object]] = set()
        self.gate = FairGate(things=BODIES, size=BODY_BYTES)
        self.deadlines = Deadlines()
        self.running = 0  # requests, streams among them
        self.answered = 0.0
        self.leaving = False  # it takes no new connection, and keeps none for another request
        self.parts = Parts(services.uploads, team_bytes=PARTS_UPLOADS * services.upload_bytes)
        self.joining = ThreadPoolExecutor(JOINS, "join")
        self.folding = asyncio.Semaphore(1)  # of what reads and folds much

    @property
    def partitions(self) -> int:
        return self.services.log.partitions

    def partition(self, stream: str) -> int:
        """The partition that `stream` is in."""
        return partition_of(partition_key(stream), self.partitions)

    async def submit(
        self,
        call: Call,
        stream: str,
        command: Command,
        *,
        reason: str = "",
        suffix: str = "",
        command_id: str = "",
        expected_version: int | None = None,
    ) -> Reply:
        """Send one command and give its reply, refused or not. Raises HttpProblem when nothing is known of it.

        The id is the call's (or `command_id`) with `suffix`, for a request that takes several commands.
        """
        envelope = self.envelope(
            call,
            stream,
            command,
            reason=reason,
            command_id=(command_id or call.command_id) + suffix,
            expected_version=expected_version,
        )
        return self.decided((await self.services.commands.submit([envelope]))[0])

    def envelope(
        self,
        call: Call,
        stream: str,
        command: Command,
        *,
        reason: str,
        command_id: str,
        expected_version: int | None,
    ) -> Envelope:
        """A command as it is sent for whoever asks in `call`."""
        return Envelope(
            stream=stream,
            command=encode_command(command),
            command_id=command_id,
            actor=call.principal.name,
            reason=reason,
            traceparent=call.traceparent,
            expected_version=expected_version,
            team=call.team,
        )

    def decided(self, reply: Reply) -> Reply:
        """The reply, counted. Raises HttpProblem when nothing is known of its command."""
        if reply.error:
            self.metrics.outcomes["error"].inc()
            raise of_error(reply)
        self.metrics.outcomes["refused" if reply.refusal else "accepted"].inc()
        return reply

    async def accepted(self, reply: Reply, stream: str, expected_version: int | None = None) -> Reply:
        """The reply, when it was accepted; else raises its refusal as an HttpProblem, a 412 with what is in between."""
        if reply.refusal is not None:
            raise of_refusal(reply.refusal, await self._between(reply.refusal, stream, expected_version))
        return reply

    async def _between(self, refusal: Refusal, stream: str, version: int | None) -> Sequence[EventView]:
        if refusal.code != "version_mismatch" or version is None:
            return []
        try:
            events = await history(self.services.log, stream)
        except NoSuchStream:
            return []
        newer = [event for event in events if event.record.version > version][-MAX_EVENTS_BETWEEN:]
        return [event_view(e, await self.owners.of(e)) for e in newer]


def accepted_view(reply: Reply, team: str, *, operation: str | None, service_id: str | None = None) -> Accepted:
    """The answer to a write."""
    return Accepted(
        team=team,
        operation=operation or None,
        position=f"{reply.partition}:{reply.offset}" if reply.offset >= 0 else None,
        stream=reply.stream,
        version=reply.version,
        service_id=service_id,
    )
