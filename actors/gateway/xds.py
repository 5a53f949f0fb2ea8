"""The xDS server: aggregated, incremental discovery over gRPC on a unix socket that only the platform's user can enter.

Moves messages between Envoy and sessions, and counts positions; must not know how resources are made.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from actors.gateway.catalog import Catalog, Resource
from actors.gateway.errors import RejectedByEnvoyError
from actors.gateway.positions import AppliedPositions
from actors.gateway.rundir import check_socket_path
from actors.gateway.session import Incoming, Outgoing, Rejection, Session
from events.log.records import Position

_log = structlog.get_logger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""A returning Envoy names all that it holds in one request: about 100 bytes for each resource."""
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    # Envoy asks every 5 s whether this end lives (bootstrap.py). gRPC takes more than two pings within 5 minutes of
    # silence for an attack and closes the connection; the one peer here is our own Envoy, which may ask as it likes.
    ("grpc.http2.max_ping_strikes", 0),
]
_Stream = grpc.aio.ServicerContext[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]


class XdsServer:
    """Serves one Envoy from a catalog. Silent until `ready`, so that an adopted Envoy keeps what it has till then."""

    def __init__(self, socket: Path) -> None:
        check_socket_path(socket)
        self._socket = socket
        self._catalog = Catalog()
        self._positions = AppliedPositions()
        self._server: grpc.aio.Server | None = None
        self._session: Session | None = None
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Listen. Any socket file that an earlier process left is replaced."""
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        generic = grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": handler})
        server.add_generic_rpc_handlers((generic,))
        server.add_insecure_port(f"unix:{self._socket}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Close the stream at once. Envoy goes on with what it holds."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    @property
    def connected(self) -> bool:
        """Whether Envoy has its stream open."""
        return self._session is not None

    @property
    def applied(self) -> dict[int, int]:
        """The offset by partition up to which Envoy has taken everything, or refused it (see `rejections`)."""
        return self._positions.applied

    @property
    def sent(self) -> tuple[int, int]:
        """Responses and resources sent on the stream that is open."""
        return (self._session.sent_responses, self._session.sent_resources) if self._session else (0, 0)

    def rejections(self) -> tuple[Rejection, ...]:
        """The refusals that stand, with Envoy's words."""
        return self._session.rejections() if self._session else ()

    def ready(self) -> None:
        """The table has caught up with the log: start answering."""
        self._ready.set()
        self._wake.set()

    def leave(self, names: frozenset[str]) -> None:
        """The log could not be read to its end: see `Catalog.leave`."""
        self._catalog.leave(names)

    def update(self, changes: Mapping[str, Mapping[str, Resource | None]]) -> bool:
        """Put resources into the catalog and send what changed; tells whether anything did."""
        changed = self._catalog.update(changes)
        if self._session is not None:
            for type_url, names in changed.items():
                self._session.changed(type_url, names, self._catalog.generation)
        if changed:
            self._positions.settle(min(self._settled(), self._catalog.generation - 1))
            self._wake.set()
        return bool(changed)

    def advance(self, partition: int, offset: int) -> None:
        """Everything up to `partition:offset` is in the catalog."""
        self._positions.record(self._catalog.generation, partition, offset)

    async def wait_applied(self, position: Position, timeout: float) -> None:
        """Return once Envoy has applied `position`; NotAppliedError after `timeout` seconds."""
        await self._positions.wait(position, timeout)

    def retry(self, type_url: str) -> None:
        """Send again what Envoy refused of this type: the reason may be gone (a port that was taken)."""
        if self._session is not None and self._session.retry(type_url):
            self._wake.set()

    def raise_rejected(self, names: frozenset[str]) -> None:
        """Raise RejectedByEnvoyError if Envoy has refused a resource of one of these names."""
        for rejection in self.rejections():
            if rejection.name in names:
                raise RejectedByEnvoyError(
                    f"expected Envoy to take {rejection.type_url.rpartition('.')[2]} {rejection.name!r}, "
                    f"found a refusal: {rejection.detail}; correct the route or endpoint (the last good one serves)"
                )

    def _settled(self) -> int:
        return self._session.settled() if self._session and self._ready.is_set() else -1

    async def _stream(
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: _Stream
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """One Envoy connection. A new one takes over from one that has not yet noticed its end."""
        session = Session(self._catalog)
        self._session = session
        self._wake.set()
        _log.info("gateway.xds.connected")
        reader = asyncio.create_task(self._read(session, requests))
        try:
            while self._session is session and not reader.done():
                await self._ready.wait()
                self._wake.clear()
                while (outgoing := session.take()) is not None:
                    yield _to_message(outgoing)
                self._positions.settle(self._settled())
                await self._wake.wait()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            if self._session is session:
                self._session = None
                _log.warning("gateway.xds.disconnected")

    async def _read(self, session: Session, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]) -> None:
        try:
            async for request in requests:
                incoming = _from_message(request)
                if incoming.error:
                    _log.error("gateway.xds.rejected", type_url=incoming.type_url, detail=incoming.error)
                session.receive(incoming)
                self._wake.set()
        finally:
            self._wake.set()


def _from_message(request: discovery_pb2.DeltaDiscoveryRequest) -> Incoming:
    error = request.error_detail
    return Incoming(
        type_url=request.type_url,
        nonce=request.response_nonce,
        subscribe=tuple(request.resource_names_subscribe),
        unsubscribe=tuple(request.resource_names_unsubscribe),
        held=dict(request.initial_resource_versions),
        error=(error.message or f"code {error.code}") if request.HasField("error_detail") else "",
    )


def _to_message(outgoing: Outgoing) -> discovery_pb2.DeltaDiscoveryResponse:
    return discovery_pb2.DeltaDiscoveryResponse(
        type_url=outgoing.type_url,
        nonce=outgoing.nonce,
        removed_resources=outgoing.removed,
        resources=[
            discovery_pb2.Resource(name=one.name, version=one.version, resource=any_pb2.Any.FromString(one.body))
            for one in outgoing.resources
        ],
    )
