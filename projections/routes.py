"""Read model: the addresses each component answers at, and who holds the claim on which host and path.

Two tables, because two streams tell it: a component's own host needs no claim, and a claim may have nothing behind it
yet. Must not know how a gateway is configured.
"""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import EndpointsChanged, RoutingApplied
from events.model.route import RouteClaimed, RouteReleased
from projections.model import Projection, ident_of, names_of
from projections.rows import Rows
from projections.schema import flag, index, model_table, number, text

ROUTES = model_table(
    "routes",
    text("service_id", key=True),
    text("host", key=True),
    text("path", key=True),
    text("team"),
    text("app"),
    text("component"),
    number("release"),
    number("ready_endpoints"),
    number("draining_endpoints"),
    number("routing_version"),
    flag("applied"),
    number("created_at"),
)
index(ROUTES, "team", "host", "path")
CLAIMS = model_table(
    "route_claims",
    text("host", key=True),
    text("path", key=True),
    text("service_id"),
    text("team"),
    text("app"),
    number("claimed_at"),
)


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One route event, or one component event that changes what is routed."""
    match event:
        case RouteClaimed():
            rows.new(
                CLAIMS,
                stored,
                host=event.host,
                path=event.path,
                service_id=event.service_id,
                team=event.team,
                app=event.app,
                claimed_at=stored.record.at,
            )
        case RouteReleased():
            host, slash, path = ident_of(stored.record.stream).partition("/")
            rows.delete(CLAIMS, host, slash + path)
        case EndpointsChanged():
            _routed(rows, stored, event)
        case RoutingApplied(version=version):
            service_id = ident_of(stored.record.stream)
            for row in rows.select(ROUTES, service_id=service_id):
                if not row["applied"] and int(row["routing_version"]) <= version:
                    rows.change(ROUTES, (service_id, row["host"], row["path"]), stored, applied=True)


def _routed(rows: Rows, stored: StoredEvent, event: EndpointsChanged) -> None:
    service_id = ident_of(stored.record.stream)
    before = {(row["host"], row["path"]): row for row in rows.select(ROUTES, service_id=service_id)}
    now = {(r.host, r.path) for r in event.routes}
    for host, path in sorted(before.keys() - now):
        rows.delete(ROUTES, service_id, host, path)
    draining = sum(e.draining for e in event.endpoints)
    for host, path in sorted(now):
        known = before.get((host, path))
        rows.new(
            ROUTES,
            stored,
            service_id=service_id,
            host=host,
            path=path,
            **names_of(rows, service_id),
            release=event.release,
            ready_endpoints=len(event.endpoints) - draining,
            draining_endpoints=draining,
            routing_version=stored.record.version,
            created_at=known["created_at"] if known else stored.record.at,
        )


PROJECTION = Projection(
    name="routes",
    version=1,
    kinds=frozenset({"component", "route"}),
    tables=(ROUTES, CLAIMS),
    fold=fold,
    takes=frozenset({RouteClaimed, RouteReleased, EndpointsChanged, RoutingApplied}),
)
