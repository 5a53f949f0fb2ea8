"""LifecycleSupervisor: the Ray actor around a `Supervisor`. Only wires it to etcd, Ray and the other actors."""

from collections.abc import Sequence

import msgspec
import structlog

from actors.cluster.channel import ChannelServer
from actors.cluster.directory import Directory, sockets_here
from actors.cluster.event_log import make_event_log
from actors.cluster.links import BuilderLinks, GatewayLinks, NodeLinks, Registry, gateway_prefix
from actors.cluster.router import make_router
from actors.cluster.shell import WORK, ActorShell, Serving
from actors.logs.appender import LogAppender
from actors.logs.intake.client import IntakeClient
from actors.supervisor.effects import Effects
from actors.supervisor.narrate import Narrator
from actors.supervisor.orders import SourceAccess
from actors.supervisor.source_access import source_access
from actors.supervisor.supervisor import Supervisor
from events.hand import Hand
from events.model.base import Envelope
from events.model.parked import ParkedState
from events.model.pool import PoolState
from events.model.team import TeamState
from events.queue.etcd_queue import EtcdTaskQueue
from events.secrets.keyring import Keyring
from events.secrets.table import EtcdKeyTable

log = structlog.get_logger("supervisor")

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Envelope]).decode


class LifecycleSupervisor(ActorShell):
    """One of a pool; each owns some partitions, as the Reconciler assigns them."""

    fix = "rayfold log verify; docs/operations.md, What is damaged"
    _supervisor: Supervisor

    async def open(self) -> None:
        """Connect, and begin to tend to whatever gets assigned."""
        settings = self.settings
        event_log = make_event_log(settings)
        await event_log.open()
        directory = Directory()
        gateways = Registry(event_log.client, gateway_prefix(settings.etcd.namespace))
        node_links = NodeLinks(directory=directory, client=event_log.client, namespace=settings.etcd.namespace)
        log_token = settings.log_token_file.read_text().strip()
        lines = LogAppender(IntakeClient(settings.eventlog_addresses, log_token), self.name)
        lines.start()
        queue = EtcdTaskQueue(event_log.client, name=self.name)
        await queue.open()
        self._supervisor = Supervisor(
            name=self.name,
            event_log=event_log,
            nodes=node_links,
            hand=Hand(settings.platform_logs / f"{self.name}.hand"),
            lost_seconds=settings.node_lost_seconds,
            told=Narrator(lambda stream, text: _emit(lines, stream, text), lines.end),
        )
        self._keys = Keyring(table=EtcdKeyTable(event_log.client), master_file=settings.master_key_file)
        effects = Effects(
            commands=make_router(settings, event_log, directory),
            nodes=node_links,
            builders=BuilderLinks(directory=directory, queue=queue),
            gateways=GatewayLinks(directory=directory, registry=gateways),
            keys=self._keys,
        )
        self._supervisor.use(effects)
        await self._listen()
        self.keep(node_links.run(), "nodes")
        self.keep(self._supervisor.tend(), "tend")

    async def _listen(self) -> None:
        try:
            await ChannelServer(sockets_here(self.settings.run_dir), self.name, self._answer).start()
        except OSError as error:
            log.warning("no socket for commands of this machine, they come by Ray", error=str(error))

    async def detail(self) -> str:
        served = f"{len(self._supervisor.engines)} partitions"
        return "; ".join((served, *self._supervisor.unserved().values()))

    async def fine(self) -> bool:
        """False while a partition that is its own cannot be served."""
        return not self._supervisor.unserved()

    async def gauges(self) -> dict[str, float]:
        """Commands per second are what the pool is scaled by."""
        rate = self._supervisor.rate()
        return {WORK: rate, "commands_per_second": rate, **self._supervisor.gauges()}

    async def drained(self) -> bool:
        """Its partitions have been moved before: nothing is left but what it may still hold by a mistake."""
        await self._supervisor.close()
        return True

    async def serving(self, streams: Sequence[str]) -> Serving:
        """What is served here now, and the states of those `streams` of pools that are."""
        await self.opened()
        pools = [state for state in self._supervisor.states(streams) if isinstance(state, PoolState)]
        return Serving(partitions=sorted(self._supervisor.engines), unserved=self._supervisor.unserved(), pools=pools)

    async def assign(self, partitions: Sequence[int], streams: Sequence[str] = ()) -> Serving:
        """Serve exactly these partitions from now on; returns what is served already."""
        await self.opened()
        await self._supervisor.assign(partitions)
        return await self.serving(streams)

    async def parked(self) -> list[ParkedState]:
        """What is set aside in the partitions served here."""
        await self.opened()
        return self._supervisor.parked()

    async def serves(self, partition: int) -> bool:
        """Whether commands for the partition are decided here now."""
        await self.opened()
        return self._supervisor.serves(partition)

    async def unserved(self) -> dict[int, str]:
        """Partitions given to it that it cannot serve, and why."""
        await self.opened()
        return self._supervisor.unserved()

    async def source_access(self, team: str, url: str) -> SourceAccess | None:
        """What the team reads a git URL with; None while its stream is not served here, or is about to change."""
        await self.opened()
        for state in self._supervisor.states([f"team/{team}"]):
            if isinstance(state, TeamState):
                return await source_access(state, url, self._keys)
        return None

    async def submit(self, envelopes: bytes) -> bytes:
        """Decide a packed list of commands; a packed list of one reply each, in order."""
        await self.opened()
        return await self._answer(envelopes)

    async def _answer(self, envelopes: bytes) -> bytes:
        return _pack(await self._supervisor.submit(_unpack(envelopes)))


def _emit(lines: LogAppender, stream: str, text: str) -> None:
    """Never waits: what the log service cannot take is counted there as a gap."""
    lines.emit(stream, text)
