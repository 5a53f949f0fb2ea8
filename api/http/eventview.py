"""How an event of the log is shown, and whose it is.

Knows the records and which event tells of an owner; nothing of HTTP.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import msgspec
from pydantic import JsonValue

from api.http.call import at_time
from api.http.schema import EventView
from events.log.records import EventRecord, StoredEvent
from events.model.base import service_id_of

MAX_KNOWN = 100_000  # service ids remembered: about 20 MB


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose something is. `team` None: the platform's own."""

    team: str | None = None
    app: str | None = None
    component: str | None = None


PLATFORM = Owner()


class Names(Protocol):
    """Where the names behind a service_id are looked up."""

    async def names_of(self, service_id: str) -> tuple[str, str, str] | None:
        """team, app, component."""
        ...


class Owners:
    """Says whose an event is. A service_id is a hash of its names, so what was once learned stays true."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: OrderedDict[str, Owner] = OrderedDict()

    async def of(self, stored: StoredEvent) -> Owner:
        """The owner of an event; the platform's where its names are not known (yet), so that nobody else sees it."""
        record = stored.record
        kind = record.stream.partition("/")[0]
        if kind in ("component", "build", "route") and record.type in ("ComponentCreated", "BuildRequested"):
            self._learn(record)
        if kind == "route":
            service_id = str(_body(record).get("service_id", ""))
            return await self.of_service(service_id)
        return await self.of_stream(record.stream)

    async def of_stream(self, stream: str) -> Owner:
        """The owner of a stream by its name. A route's claim may change hands: the platform's."""
        kind, _, ident = stream.partition("/")
        if kind == "team":
            return Owner(team=ident)
        if kind == "app":
            team, _, app = ident.partition(".")
            return Owner(team=team, app=app)
        if kind == "template":
            return Owner(team=ident.partition(".")[0])
        if kind in ("component", "build"):
            return await self.of_service(ident.partition("-")[0])
        return PLATFORM

    async def of_service(self, service_id: str) -> Owner:
        """The owner behind a service_id."""
        known = self._known.get(service_id)
        if known is not None:
            return known
        names = await self._names.names_of(service_id)
        if names is None:
            return PLATFORM
        return self._keep(service_id, Owner(team=names[0], app=names[1], component=names[2]))

    def _learn(self, record: EventRecord) -> None:
        body = _body(record)
        component = str(body.get("name") or body.get("component") or "")
        owner = Owner(team=str(body.get("team", "")), app=str(body.get("app", "")), component=component)
        service_id = str(body.get("service_id", ""))
        if service_id == service_id_of(owner.team or "", owner.app or "", component):
            self._keep(service_id, owner)

    def _keep(self, service_id: str, owner: Owner) -> Owner:
        self._known[service_id] = owner
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return owner


def _body(record: EventRecord) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = msgspec.to_builtins(msgspec.msgpack.decode(record.body), str_keys=True)
    return found


def event_view(stored: StoredEvent, owner: Owner) -> EventView:
    """The event as the interface shows it. The body is the stored one, unknown types included."""
    record = stored.record
    return EventView(
        position=str(stored.position),
        event_id=record.event_id,
        stream=record.stream,
        version=record.version,
        type=record.type,
        schema_version=record.schema_version,
        at=at_time(record.at),
        team=owner.team,
        app=owner.app,
        component=owner.component,
        command_id=record.command_id,
        operation=record.correlation_id,
        causation_id=record.causation_id,
        actor=record.actor,
        reason=record.reason,
        traceparent=record.traceparent,
        body=_body(record),
    )
