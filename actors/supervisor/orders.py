"""What the supervisor orders from nodes, builders and gateways, and the ports by which it reaches them.

Shapes and promises only; how an order travels (Ray) and how it is carried out are other rooms' business.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from events.model.build import Source
from events.model.placement import Room
from events.model.team_credentials import CredentialKind


class StartOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node must know to start, watch and probe one instance. Sizes in bytes, times in seconds.

    `config` holds secrets in clear: the order travels, and is neither stored as it is nor ever shown.
    """

    instance: str
    service_id: str
    team: str
    app: str
    component: str
    release: int
    slot: int
    kind: str
    command: str
    artifact: str
    config: dict[str, str]
    secrets: tuple[str, ...] = ()
    """The names in `config` whose values are secret."""
    http: bool
    probe_path: str
    start_timeout_seconds: int
    grace_seconds: int
    memory_bytes: int
    open_files: int
    processes: int
    operation: str = ""

    def __repr__(self) -> str:
        return f"StartOrder({self.instance}, release {self.release} of {self.team}/{self.app}/{self.component})"


class SourceAccess(msgspec.Struct, frozen=True, kw_only=True):
    """What a team reads one git URL with; all empty where it has nothing for it, and the platform's user reads it.

    `secret` is in clear: it travels in an answer, and is neither stored nor ever shown. `unreadable`: why the
    credential `name` cannot be opened. `host_keys`: lines of a `known_hosts`, all that the host is known by.
    """

    name: str = ""
    prefix: str = ""
    kind: CredentialKind | None = None
    user: str = ""
    secret: str = ""
    public: str = ""
    host_keys: tuple[str, ...] = ()
    unreadable: str = ""

    def __repr__(self) -> str:
        return f"SourceAccess({self.name}, {self.kind})"


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """Where a started instance listens (`port` 0: nowhere)."""

    host: str
    port: int
    pid: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance ended; `exit_code` -1 when nobody saw it."""

    exit_code: int
    signal: int = 0


class Known(msgspec.Struct, frozen=True):
    """A component as its owner's durable state has it: of its first `started` instances only `alive` are not over.

    An owner that is none any more knows of fewer instances, and an instance that is over stays over: what it says of
    the first `started` is true for ever.
    """

    service_id: str
    started: int
    alive: tuple[str, ...]


class BuildOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a builder must know of one build, as it waits in the queue. `attempts`: how many were made when it was
    queued; those that its claims count come on top."""

    build_id: str
    attempts: int
    service_id: str
    team: str
    app: str
    component: str
    source: Source
    timeout_seconds: int
    operation: str = ""


class NodePort(Protocol):
    """The agents of the live nodes."""

    def nodes(self) -> Sequence[Room]:
        """The live nodes, as known now."""
        ...

    def gone(self) -> Collection[str]:
        """The names of the nodes that were removed for good, as known now: nothing runs there any more."""
        ...

    async def start(self, node: str, order: StartOrder) -> Started:
        """Idempotent by `order.instance`. Raises when the node cannot be reached or refuses, with the reason."""
        ...

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        """Returns when nothing of the instance runs any more; an unknown instance is stopped."""
        ...

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        """Those of `instances` that the node knows nothing of."""
        ...

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        """Have the node stop what the log holds for over, as after it was cut off; returns what is being stopped."""
        ...

    async def tell(self, node: str, *, leaving: bool) -> None:
        """Have the node say, from now on, whether it is being drained. Raises when it cannot be reached."""
        ...

    async def strike(self, node: str, *, gone: bool) -> None:
        """Write down, for every supervisor, whether the node was removed for good."""
        ...


class BuilderPort(Protocol):
    """The builders' pool. A builder says itself, to the build's own stream, when it begins and how it ended."""

    async def request(self, order: BuildOrder) -> None:
        """Let a builder build this when one has room, those of one component in the order asked for. Idempotent."""
        ...

    async def cancel(self, builder: str, build_id: str) -> None:
        """Stop the build's processes; its outcome is then `cancelled`."""
        ...


class GatewayPort(Protocol):
    """Every live gateway at once."""

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        """Wait until every live gateway's proxy serves what the log said at `offset`; returns the gateways' names."""
        ...

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        """Requests that these instances of a component still work on, summed over all gateways."""
        ...


class KeyPort(Protocol):
    """The teams' data keys, as `events.secrets.keyring` has them. Raises LogUnavailable when they cannot be had now."""

    async def open_all(self, team: str, stream: str, values: Mapping[str, str]) -> dict[str, str]:
        """`values` of `stream` with the sealed ones in clear. Raises SecretError for what can never be opened."""
        ...

    async def destroy(self, team: str, key_id: str, *, by: str, reason: str) -> None:
        """Destroy a key for good. Idempotent."""
        ...
