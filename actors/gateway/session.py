"""One incremental-xDS conversation: what Envoy holds, what is on its way, what is still to send, and in which order.

Knows the delta protocol and nothing of gRPC, protobuf or what a resource means; the server moves its messages.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from actors.gateway.catalog import CDS, EDS, LDS, ORDER, ROUTES, Catalog, Resource

CHUNK = 500
"""Resources in one response. Envoy applies a response on its main thread in one go: about 20 ms for 500 clusters."""


class Rejection(NamedTuple):
    """A resource version that Envoy refused. It goes on serving the last version that it took."""

    type_url: str
    name: str
    version: str
    detail: str


class Outgoing(NamedTuple):
    """One delta response: resources to put, names to remove."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]


class Incoming(NamedTuple):
    """One delta request. `error` is Envoy's text of a NACK, empty otherwise; `held` is given at a stream's start."""

    type_url: str
    nonce: str
    subscribe: tuple[str, ...]
    unsubscribe: tuple[str, ...]
    held: Mapping[str, str]
    error: str


class _Flight(NamedTuple):
    type_url: str
    names: dict[str, tuple[str, int]]
    """name -> (version sent, "" for a removal; generation since which Envoy has been behind on it)"""
    renews_routes: bool
    """A listener sent again asks for no routes if one before it has, yet it does not open without them."""


class _TypeState:
    """Where the conversation stands for one resource type."""

    def __init__(self) -> None:
        self.subscribed = False
        self.wildcard = False
        self.answered = False
        self.returning = False
        self.wanted: set[str] = set()
        self.held: dict[str, str] = {}
        self.brought: dict[str, str] = {}
        """What Envoy held when the stream began, and has not asked for anew since."""
        self.dirty: dict[str, int] = {}
        self.alone: set[str] = set()
        """Names to send one by one, because a response that held them was refused."""
        self.rejected: dict[str, Rejection] = {}


class Session:
    """The state of one stream. `receive` and `changed` feed it, `take` says what to send next."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._types = {type_url: _TypeState() for type_url in ORDER}
        self._flights: dict[str, _Flight] = {}
        self._nonce = 0
        self.sent_resources = 0
        self.sent_responses = 0

    def receive(self, message: Incoming) -> None:
        """Take a request: a subscription, an ACK or a NACK, or several of these at once."""
        state = self._types.get(message.type_url)
        if state is None:
            return
        first = not state.subscribed
        state.subscribed = True
        if first:
            self._begin(state, message)
        if message.nonce:
            self._settle(state, message.nonce, message.error)
        self._subscribe(state, message)

    def changed(self, type_url: str, names: Iterable[str], generation: int) -> None:
        """Note that the catalog's resources of these names changed with `generation`."""
        state = self._types[type_url]
        for name in names:
            state.rejected.pop(name, None)
            if type_url == EDS and self._catalog.get(EDS, name) is None:
                # The endpoints go with their cluster: Envoy unsubscribes when it drops it.
                state.dirty.pop(name, None)
            elif state.subscribed and (state.wildcard or name in state.wanted):
                state.dirty.setdefault(name, generation)

    def retry(self, type_url: str) -> bool:
        """Offer again what was refused; tells whether there is any."""
        state = self._types[type_url]
        refused = list(state.rejected)
        for name in refused:
            state.dirty[name] = self._catalog.generation
        return bool(refused)

    def take(self) -> Outgoing | None:
        """The next response that may go out now, in make-before-break order; None when there is none."""
        for type_url in ORDER:
            state = self._types[type_url]
            if not state.subscribed:
                continue
            names = self._sendable(type_url, state)
            if names is None:
                continue
            return self._send(type_url, state, names)
        return None

    def settled(self) -> int:
        """The highest generation of which nothing is left to send or to acknowledge; -1 before the first answers."""
        for type_url, state in self._types.items():
            # Envoy asks for endpoints only once it has a cluster.
            expected = type_url != EDS or bool(self._catalog.names(CDS))
            if expected and not (state.subscribed and state.answered):
                return -1
        if not self._catalog.names(LDS) <= self._types[LDS].held.keys():
            return -1  # without its listener (the port is taken) Envoy serves nothing at all
        behind = [since for state in self._types.values() for since in state.dirty.values()]
        behind += [since for flight in self._flights.values() for _, since in flight.names.values()]
        return min(behind) - 1 if behind else self._catalog.generation

    def rejections(self) -> tuple[Rejection, ...]:
        """Every refusal that stands."""
        return tuple(rejection for state in self._types.values() for rejection in state.rejected.values())

    def _begin(self, state: _TypeState, message: Incoming) -> None:
        """First request of a type on this stream: take over what Envoy already holds, find what differs."""
        state.held = dict(message.held)
        state.brought = dict(message.held)
        state.wildcard = message.type_url != EDS
        generation = self._catalog.generation
        if state.wildcard:
            for name in self._catalog.names(message.type_url):
                if state.held.get(name) != self._catalog.version(message.type_url, name):
                    state.dirty[name] = generation
            for name in state.held:
                if self._catalog.version(message.type_url, name) == "":
                    state.dirty[name] = generation
        state.returning = bool(state.held)

    def _subscribe(self, state: _TypeState, message: Incoming) -> None:
        if state.wildcard:
            if "*" in message.subscribe and state.answered:
                self._offer_all(state, message.type_url)
            return
        for name in message.unsubscribe:
            state.wanted.discard(name)
            state.held.pop(name, None)
            state.dirty.pop(name, None)
        for name in message.subscribe:
            state.wanted.add(name)
            # A name subscribed again is asked for anew: Envoy may have dropped what it held (delta protocol).
            version = self._catalog.version(message.type_url, name)
            gone = not version and name in self._types[CDS].held
            if not message.held:
                state.brought.pop(name, None)
            if not gone and not (message.held and message.held.get(name) == version):
                state.held.pop(name, None)
                state.dirty.setdefault(name, self._catalog.generation)

    def _settle(self, state: _TypeState, nonce: str, error: str) -> None:
        flight = self._flights.pop(nonce, None)
        if flight is None:
            return
        if error and len(flight.names) > 1:
            # One bad resource refuses the whole response: send each alone, so that only the bad one stays out.
            state.alone.update(flight.names)
            for name, (_, since) in flight.names.items():
                state.dirty[name] = min(since, state.dirty.get(name, since))
            return
        if flight.renews_routes and not error:
            self._offer_all(self._types[ROUTES], ROUTES)
        for name, (version, _) in flight.names.items():
            state.alone.discard(name)
            if error:
                self._reject(state, Rejection(flight.type_url, name, version, error))
                continue
            state.rejected.pop(name, None)
            if version:
                state.held[name] = version
            else:
                state.held.pop(name, None)

    def _offer_all(self, state: _TypeState, type_url: str) -> None:
        """Start over with a type: whole, whatever Envoy holds."""
        for name in self._catalog.names(type_url):
            state.held.pop(name, None)
            state.dirty.setdefault(name, self._catalog.generation)
        state.answered = state.returning = False

    def _reject(self, state: _TypeState, rejection: Rejection) -> None:
        if rejection.name in state.dirty:
            return
        state.rejected[rejection.name] = rejection
        endpoints = self._types[EDS]
        if rejection.type_url == CDS and rejection.name not in endpoints.wanted:
            endpoints.dirty.pop(rejection.name, None)

    def _sendable(self, type_url: str, state: _TypeState) -> list[str] | None:
        """Names to send now (perhaps none, when Envoy waits for a first answer), or None for nothing to send."""
        self._forget_equal(type_url, state)
        if state.returning and not state.dirty:
            # Envoy that came back with everything in place needs no answer to go on.
            state.answered = True
        ready = [name for name in state.dirty if self._may_go(type_url, name)]
        if not state.answered and type_url != EDS:
            # The first answer is whole: a listener must not open with half of the hosts.
            return ready if len(ready) == len(state.dirty) else None
        if not ready:
            return None
        alone = [name for name in ready if name in state.alone]
        return alone[:1] if alone else ready[:CHUNK]

    def _forget_equal(self, type_url: str, state: _TypeState) -> None:
        """Do not send what Envoy holds already: it said so on its return, or a change was taken back."""
        flying = {name for flight in self._flights.values() if flight.type_url == type_url for name in flight.names}
        for name in list(state.dirty):
            version = self._catalog.version(type_url, name)
            equal = bool(version) and state.held.get(name) == version
            left = name in state.brought and self._catalog.leaves(type_url, name)
            if name not in flying and (equal or left):
                del state.dirty[name]
                if left:
                    state.held[name] = state.brought[name]

    def _may_go(self, type_url: str, name: str) -> bool:
        """Make before break: routes after their clusters, clusters out after their routes."""
        resource = self._catalog.get(type_url, name)
        if type_url == ROUTES and resource is not None:
            return all(self._cluster_in_place(cluster) for cluster in resource.needs)
        if type_url == EDS:
            return name in self._types[EDS].wanted
        if type_url == CDS and resource is None:
            routes = self._types[ROUTES]
            return not routes.dirty and not any(f.type_url == ROUTES for f in self._flights.values())
        return True

    def _cluster_in_place(self, cluster: str) -> bool:
        """Envoy has the cluster and its endpoints, or refused one of them (which must not hold back others)."""
        clusters, endpoints = self._types[CDS], self._types[EDS]
        if cluster in clusters.rejected or cluster in endpoints.rejected:
            return True
        return cluster in clusters.held and cluster in endpoints.held

    def _send(self, type_url: str, state: _TypeState, names: list[str]) -> Outgoing:
        self._nonce += 1
        nonce = str(self._nonce)
        resources: list[Resource] = []
        removed: list[str] = []
        flight: dict[str, tuple[str, int]] = {}
        for name in names:
            resource = self._catalog.get(type_url, name)
            flight[name] = (resource.version if resource else "", state.dirty.pop(name))
            if resource is None:
                removed.append(name)
            else:
                resources.append(resource)
            if type_url == CDS:
                self._expect_endpoints(name, resource is not None, flight[name][1])
        routes = self._types[ROUTES]
        renews_routes = type_url == LDS and (routes.answered or routes.returning)
        self._flights[nonce] = _Flight(type_url, flight, renews_routes)
        state.answered = True
        self.sent_responses += 1
        self.sent_resources += len(names)
        return Outgoing(type_url, nonce, tuple(resources), tuple(removed))

    def _expect_endpoints(self, cluster: str, wanted: bool, since: int) -> None:
        """A cluster new or changed warms only with its endpoints: Envoy is behind until it has taken them too."""
        endpoints = self._types[EDS]
        endpoints.held.pop(cluster, None)
        if wanted:
            endpoints.dirty.setdefault(cluster, since)
        else:
            endpoints.dirty.pop(cluster, None)
