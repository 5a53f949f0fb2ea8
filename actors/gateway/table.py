"""The routing table: every component's routes and endpoints, folded from per-component snapshots of the log.

Pure and in memory: it must not know of Envoy, xDS, sockets or clocks.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from events.log.records import Position
from events.model.route import plain_path

EndpointState = Literal["active", "draining"]


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One address of a component: `host` without port, `path_prefix` matched on segment boundaries.

    `automatic`: the component has it by itself and claimed it from nobody; it goes before every route that was added.
    `claimed` is the position of the event that added the route. It decides who keeps an address that two components
    want; left out, the position at which this table first saw the claim stands in, which a restart may see differently.
    """

    host: str
    path_prefix: str = "/"
    automatic: bool = False
    claimed: Position | None = None


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where one instance listens. `draining` takes no new request while those in flight finish."""

    instance_id: str
    host: str
    port: int
    state: EndpointState = "active"


class ComponentRouting(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gateway needs of one component, as of `position`.

    With `available` false no endpoint takes new requests (the address answers 503), whatever the endpoints' states say.
    """

    service_id: str
    team: str
    app: str
    component: str
    position: Position
    routes: tuple[RouteSpec, ...] = ()
    endpoints: tuple[EndpointSpec, ...] = ()
    available: bool = True


class HostRoute(NamedTuple):
    """A path prefix of a host and the component that has it."""

    path_prefix: str
    service_id: str


class Conflict(NamedTuple):
    """An address that the `losers` want, first in line first, and do not have: `winner` answers there."""

    host: str
    path_prefix: str
    winner: str
    losers: tuple[str, ...]


class TableChange(NamedTuple):
    """What a change touched: hosts whose routes, and components whose endpoints, may have to be sent again."""

    hosts: frozenset[str]
    services: frozenset[str]


class _Claim(NamedTuple):
    """Of several on one address the least has it. Positions of two partitions say nothing of age, only the same to
    every gateway; that two added routes meet is kept from happening before (`events.model.route`)."""

    added: bool
    position: Position


_Claims = dict[str, dict[str, dict[str, _Claim]]]
"""host -> path prefix -> service_id -> its claim."""


def normal_host(host: str) -> str:
    """Host names are compared without case and without a final dot (RFC 4343)."""
    return host.strip().lower().rstrip(".")


class RoutingTable:
    """Components, the addresses they hold, and the highest position applied in each partition."""

    def __init__(self) -> None:
        self._components: dict[str, ComponentRouting] = {}
        self._claims: _Claims = {}
        self._positions: dict[int, int] = {}

    @property
    def positions(self) -> dict[int, int]:
        """The highest offset folded in, by partition."""
        return dict(self._positions)

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(self._claims)

    @property
    def services(self) -> frozenset[str]:
        return frozenset(self._components)

    def component(self, service_id: str) -> ComponentRouting | None:
        """The snapshot that stands for `service_id`, or None when it is unknown or removed."""
        return self._components.get(service_id)

    def apply(self, snapshots: Iterable[ComponentRouting]) -> TableChange:
        """Fold snapshots in; one older than what stands for its component is dropped, so repeats do no harm."""
        hosts: set[str] = set()
        services: set[str] = set()
        for new in snapshots:
            old = self._components.get(new.service_id)
            self.advance(new.position.partition, new.position.offset)
            if old is not None and new.position < old.position:
                continue
            hosts |= self._reclaim(new.service_id, old, new)
            self._components[new.service_id] = new
            if old is None or _targets(old) != _targets(new):
                services.add(new.service_id)
        return TableChange(frozenset(hosts), frozenset(services))

    def remove(self, service_id: str) -> TableChange:
        """Forget a component: its addresses go to the next in line, or become unknown hosts."""
        old = self._components.pop(service_id, None)
        if old is None:
            return TableChange(frozenset(), frozenset())
        return TableChange(frozenset(self._reclaim(service_id, old, None)), frozenset({service_id}))

    def advance(self, partition: int, offset: int) -> None:
        """Note that events up to `offset` are folded in, also those that do not concern routing. Never goes back."""
        if offset > self._positions.get(partition, -1):
            self._positions[partition] = offset

    def routes(self, host: str) -> tuple[HostRoute, ...]:
        """The host's routes, longest prefix first; empty for an unknown host."""
        prefixes = self._claims.get(host, {})
        team = self._team_of(prefixes)
        found: list[HostRoute] = []
        for prefix in sorted(prefixes, key=lambda prefix: (-len(prefix), prefix)):
            # A log of an older version may have another team's routes at an automatic host, which nobody allowed.
            line = [s for s in _in_line(prefixes[prefix]) if team is None or self._components[s].team == team]
            if line:
                found.append(HostRoute(prefix, line[0]))
        return tuple(found)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Every address that a component has among its routes and does not answer at."""
        found: list[Conflict] = []
        for host, prefixes in self._claims.items():
            has = {route.path_prefix: route.service_id for route in self.routes(host)}
            for prefix, claims in prefixes.items():
                winner = has.get(prefix) or has["/"]  # no prefix is left out but for who has the whole host
                if losers := [each for each in _in_line(claims) if each != winner]:
                    found.append(Conflict(host, prefix, winner, tuple(losers)))
        return tuple(sorted(found))

    def _team_of(self, prefixes: dict[str, dict[str, _Claim]]) -> str | None:
        """The team whose automatic host has these prefixes; None when it is nobody's."""
        for service_id, claim in prefixes.get("/", {}).items():
            if not claim.added:
                return self._components[service_id].team
        return None

    def _reclaim(self, service_id: str, old: ComponentRouting | None, new: ComponentRouting | None) -> set[str]:
        """Move `service_id`'s claims from `old` to `new`; returns the hosts on which something changed."""
        before, after = _addresses(old), _addresses(new)
        touched: set[str] = set()
        for host, prefix in before.keys() - after.keys():
            self._drop_claim(host, prefix, service_id)
            touched.add(host)
        for (host, prefix), spec in after.items():
            claims = self._claims.setdefault(host, {}).setdefault(prefix, {})
            standing = claims.get(service_id)
            first_seen = standing.position if standing else new.position if new else Position(0, 0)
            claim = _Claim(added=not spec.automatic, position=spec.claimed or first_seen)
            if claim != standing:
                claims[service_id] = claim
                touched.add(host)
        if old is not None and new is not None and _names(old) != _names(new):
            touched |= {host for host, _ in after}
        return touched

    def _drop_claim(self, host: str, prefix: str, service_id: str) -> None:
        prefixes = self._claims[host]
        prefixes[prefix].pop(service_id, None)
        if not prefixes[prefix]:
            del prefixes[prefix]
        if not prefixes:
            del self._claims[host]


def _addresses(routing: ComponentRouting | None) -> dict[tuple[str, str], RouteSpec]:
    if routing is None:
        return {}
    return {(normal_host(spec.host), plain_path(spec.path_prefix)): spec for spec in routing.routes}


def _targets(routing: ComponentRouting) -> tuple[tuple[EndpointSpec, ...], bool, bool]:
    return routing.endpoints, routing.available, bool(routing.routes)


def _names(routing: ComponentRouting) -> tuple[str, str, str]:
    return routing.team, routing.app, routing.component


def _in_line(claims: dict[str, _Claim]) -> list[str]:
    """The least first; the id breaks a tie, so that every gateway decides alike."""
    return sorted(claims, key=lambda service_id: (claims[service_id], service_id))
