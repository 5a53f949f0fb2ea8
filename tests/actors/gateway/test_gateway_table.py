"""The routing table: who has which address, and what a change touches."""

from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.actor import RoutingFold
from actors.gateway.table import ComponentRouting, Conflict, EndpointSpec, HostRoute, RouteSpec, RoutingTable
from events.log.records import EventRecord, Position, StoredEvent
from events.model.base import Event
from events.model.component_events import ComponentCreated, EndpointsChanged
from events.model.component_parts import RouteSpec as Route
from events.model.component_parts import Spec
from events.model.registry import encode_event


def component(
    name: str, offset: int, *addresses: str, partition: int = 0, endpoints: tuple[int, ...] = ()
) -> ComponentRouting:
    return ComponentRouting(
        service_id=name,
        team="acme",
        app=name,
        component="web",
        position=Position(partition, offset),
        routes=tuple(
            RouteSpec(host=host, path_prefix="/" + path) for host, _, path in (a.partition("/") for a in addresses)
        ),
        endpoints=tuple(EndpointSpec(instance_id=f"i{port}", host="127.0.0.1", port=port) for port in endpoints),
    )


def at(name: str, team: str, *routes: RouteSpec) -> ComponentRouting:
    return ComponentRouting(
        service_id=name, team=team, app=name, component="web", position=Position(len(name), 1), routes=routes
    )


def stored(offset: int, event: Event) -> StoredEvent:
    record = EventRecord(
        stream="component/s1", version=offset + 1, type=type(event).__name__, schema_version=event.schema_version,
        event_id=str(offset), at=offset, command_id="", correlation_id="", causation_id="", actor="", reason="",
        traceparent="", body=encode_event(event),
    )  # fmt: skip
    return StoredEvent(Position(0, offset), 0, record)


def test_longest_prefix_comes_first() -> None:
    table = RoutingTable()
    table.apply([component("a", 1, "x.localhost", "x.localhost/api"), component("b", 2, "x.localhost/api/v2/")])

    assert table.routes("x.localhost") == (HostRoute("/api/v2", "b"), HostRoute("/api", "a"), HostRoute("/", "a"))


def test_hosts_have_no_case_and_no_final_dot() -> None:
    table = RoutingTable()
    table.apply([component("a", 1, "Shop.Example.COM.")])

    assert table.hosts == {"shop.example.com"}


def test_an_address_stays_with_the_first_claim_also_when_its_owner_changes_later() -> None:
    table = RoutingTable()
    table.apply([component("first", 1, "x.localhost"), component("second", 2, "x.localhost")])
    table.apply([component("first", 9, "x.localhost", endpoints=(1,))])

    assert table.routes("x.localhost") == (HostRoute("/", "first"),)
    assert table.conflicts() == (Conflict("x.localhost", "/", "first", ("second",)),)


def test_an_address_given_up_goes_to_the_next_in_line() -> None:
    table = RoutingTable()
    table.apply([component("first", 1, "x.localhost"), component("second", 2, "x.localhost")])
    change = table.apply([component("first", 3)])

    assert table.routes("x.localhost") == (HostRoute("/", "second"),)
    assert change.hosts == {"x.localhost"}


def test_a_claim_with_its_own_position_decides_whatever_the_order_of_arrival() -> None:
    early = RouteSpec(host="x.localhost", claimed=Position(3, 1))
    late = RouteSpec(host="x.localhost", claimed=Position(3, 2))
    a = ComponentRouting(service_id="a", team="t", app="a", component="web", position=Position(3, 50), routes=(early,))
    b = ComponentRouting(service_id="b", team="t", app="b", component="web", position=Position(3, 40), routes=(late,))

    for order in ([a, b], [b, a]):
        table = RoutingTable()
        table.apply(order)
        assert table.routes("x.localhost") == (HostRoute("/", "a"),)


def test_an_automatic_host_goes_before_every_route_that_was_added_whatever_their_partitions() -> None:
    added = at("added", "other", RouteSpec(host="x.localhost", claimed=Position(0, 1)))
    home = at("home", "t", RouteSpec(host="x.localhost", automatic=True, claimed=Position(3, 9)))

    for order in ([added, home], [home, added]):
        table = RoutingTable()
        table.apply(order)
        assert table.routes("x.localhost") == (HostRoute("/", "home"),)
        assert table.conflicts() == (Conflict("x.localhost", "/", "home", ("added",)),)


def test_an_automatic_host_answers_for_its_own_team_alone_on_every_path() -> None:
    home = at("home", "t", RouteSpec(host="x.localhost", automatic=True))
    sibling = at("sibling", "t", RouteSpec(host="x.localhost", path_prefix="/api"))
    stranger = at("stranger", "other", *(RouteSpec(host="x.localhost", path_prefix=p) for p in ("/api/v2", "/login")))
    table = RoutingTable()
    table.apply([stranger, sibling])
    before = table.routes("x.localhost")

    change = table.apply([home])

    assert [route.service_id for route in before] == ["stranger", "stranger", "sibling"]
    assert change.hosts == {"x.localhost"}
    assert table.routes("x.localhost") == (HostRoute("/api", "sibling"), HostRoute("/", "home"))
    assert table.conflicts() == (
        Conflict("x.localhost", "/api/v2", "home", ("stranger",)),
        Conflict("x.localhost", "/login", "home", ("stranger",)),
    )
    table.remove("home")
    assert table.routes("x.localhost") == before


def test_the_fold_tells_the_host_that_a_component_has_by_itself_from_those_that_were_added() -> None:
    spec = Spec(http=True, auto_host="shop.localhost")
    added = (Route("shop.localhost", "/api"), Route("shop.example.com"))
    history: list[Event] = [
        ComponentCreated(service_id="s1", team="t", app="shop", name="web", process="web", spec=spec),
        EndpointsChanged(release=1, routes=(Route("shop.localhost"), *added), endpoints=()),
    ]

    [routing] = RoutingFold().fold([stored(offset, event) for offset, event in enumerate(history)])

    assert [(r.host, r.path_prefix, r.automatic) for r in routing.routes] == [
        ("shop.localhost", "/", True),
        ("shop.localhost", "/api", False),
        ("shop.example.com", "/", False),
    ]


def test_only_what_changed_is_touched() -> None:
    table = RoutingTable()
    table.apply([component("a", 1, "a.localhost", endpoints=(1,)), component("b", 2, "b.localhost")])

    endpoint = table.apply([component("a", 3, "a.localhost", endpoints=(1, 2))])
    route = table.apply([component("b", 4, "b.localhost", "c.localhost")])
    nothing = table.apply([component("b", 5, "b.localhost", "c.localhost")])

    assert (endpoint.hosts, endpoint.services) == (set(), {"a"})
    assert (route.hosts, route.services) == ({"c.localhost"}, set())
    assert (nothing.hosts, nothing.services) == (set(), set())


def test_an_older_snapshot_is_dropped() -> None:
    table = RoutingTable()
    table.apply([component("a", 5, "new.localhost")])
    table.apply([component("a", 4, "old.localhost")])

    assert table.hosts == {"new.localhost"}


def test_positions_only_grow() -> None:
    table = RoutingTable()
    table.apply([component("a", 5, partition=1)])
    table.advance(1, 3)
    table.advance(2, 8)

    assert table.positions == {1: 5, 2: 8}


def test_a_removed_component_leaves_nothing() -> None:
    table = RoutingTable()
    table.apply([component("a", 1, "a.localhost")])
    change = table.remove("a")

    assert table.hosts == set() and table.services == set()
    assert (change.hosts, change.services) == ({"a.localhost"}, {"a"})
    assert table.remove("a").services == set()


addresses = st.lists(st.sampled_from(["x.localhost", "y.localhost", "x.localhost/a", "x.localhost/a/b"]), unique=True)
steps = st.lists(st.tuples(st.sampled_from("abc"), addresses), max_size=12)


@given(steps)
def test_a_table_folded_step_by_step_is_the_table_of_the_last_snapshots(history: list[tuple[str, list[str]]]) -> None:
    stepwise, claims = RoutingTable(), dict[tuple[str, str], Position]()
    last: dict[str, ComponentRouting] = {}
    for offset, (name, wanted) in enumerate(history):
        position = Position(0, offset)
        for key in [key for key in claims if key[0] == name and key[1] not in wanted]:
            del claims[key]
        routes = []
        for address in wanted:
            host, _, path = address.partition("/")
            claimed = claims.setdefault((name, address), position)
            own = (name, address) == ("a", "x.localhost")
            routes.append(RouteSpec(host=host, path_prefix="/" + path, automatic=own, claimed=claimed))
        last[name] = ComponentRouting(
            service_id=name,
            team="other" if name == "b" else "t",
            app=name,
            component="web",
            position=position,
            routes=tuple(routes),
        )
        stepwise.apply([last[name]])

    at_once = RoutingTable()
    at_once.apply(sorted(last.values(), key=lambda one: one.service_id))

    assert {host: stepwise.routes(host) for host in stepwise.hosts} == {h: at_once.routes(h) for h in at_once.hosts}
    assert stepwise.positions == at_once.positions
