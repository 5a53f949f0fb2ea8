"""Automatic hosts: whose a name below `.localhost` is, and that nobody else comes to it, whatever it is claimed by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.model import component, route
from events.model.base import Decision, Meta, Refusal, host_problem, name_problem
from events.model.component_commands import ChangeSpec
from events.model.component_events import SpecChanged
from events.model.component_parts import ComponentState, ComponentStatus, RouteSpec, Spec
from events.model.hosts import automatic_host, reserved_problem

META = Meta(at=1_000, command_id="op")
ADMITTED = (
    "shop--b.localhost",
    "api.shop--b.localhost",
    "one.more.shop--b.localhost",
    "shop.example.com",
    "localhost",
    "notlocalhost",
    "shop.localhost.example.com",
)
RESERVED = (
    "shop.localhost",  # the default team's app of the same name
    "api.shop.localhost",
    "shop--c.localhost",
    "other--b.localhost",
    "notshop--b.localhost",
    "shop--b.other.localhost",
    "nobody-yet.localhost",
    "0.localhost",
)
name = st.from_regex(r"[a-z]([a-z0-9]|-[a-z0-9]){0,8}", fullmatch=True)
address = st.tuples(name | st.just("default"), name, name | st.just("web"))


def bare(*routes: RouteSpec, http: bool = True) -> ComponentState:
    spec = Spec(http=http, auto_host="shop--b.localhost", routes=routes)
    return ComponentState(status=ComponentStatus.ACTIVE, service_id="s1", team="b", app="shop", name="web", spec=spec)


def adding(state: ComponentState, host: str, path: str = "/") -> Decision:
    return component.decide(state, ChangeSpec(routes_add=(RouteSpec(host, path),)), META)


def claiming(state: route.RouteState, host: str, path: str = "/") -> Decision:
    command = route.ClaimRoute(host=host, path=path, service_id="s1", team="b", app="shop")
    return route.decide(state, command, META)


def code_of(decision: Decision) -> str:
    return decision.code if isinstance(decision, Refusal) else ""


@pytest.mark.parametrize(
    ("team", "app", "name", "host"),
    [
        ("default", "shop", "web", "shop.localhost"),
        ("default", "shop", "api", "api.shop.localhost"),
        ("b", "shop", "web", "shop--b.localhost"),
        ("b", "shop", "api", "api.shop--b.localhost"),
        ("b", "web", "web", "web--b.localhost"),
    ],
)
def test_what_a_component_is_called_by_itself(team: str, app: str, name: str, host: str) -> None:
    assert automatic_host(team, app, name) == host


@given(address, address)
def test_no_two_components_have_one_host_and_no_application_is_let_into_anothers(
    one: tuple[str, str, str], two: tuple[str, str, str]
) -> None:
    assert all(name_problem("a name", part) is None for part in (*one, *two))
    host = automatic_host(*one)
    assert host_problem(host) is None

    assert (host == automatic_host(*two)) == (one == two)
    assert (reserved_problem(host, team=two[0], app=two[1]) is None) == (one[:2] == two[:2])


@pytest.mark.parametrize("path", ["/", "/admin"])
@pytest.mark.parametrize("host", RESERVED)
def test_a_host_of_another_application_is_neither_added_nor_claimed(host: str, path: str) -> None:
    for decision in (adding(bare(), host, path), claiming(route.RouteState(), host, path)):
        assert isinstance(decision, Refusal)
        assert decision.code == "conflict"
        assert decision.message.startswith(f"{host} is taken by another application")
        assert "shop--b.localhost" in decision.hint


@pytest.mark.parametrize("path", ["/", "/admin"])
@pytest.mark.parametrize("host", ADMITTED)
def test_its_own_names_and_what_is_not_below_localhost_are_free_to_claim(host: str, path: str) -> None:
    assert code_of(adding(bare(), host, path)) == ""
    assert code_of(claiming(route.RouteState(), host, path)) == ""


@pytest.mark.parametrize(
    "host", ["Shop.localhost", "shop.localhost.", "shop.localhost:80", "*.localhost", "shop.localhost\n", ""]
)
def test_a_host_that_is_spelled_otherwise_is_no_host(host: str) -> None:
    assert code_of(adding(bare(), host)) == "invalid"
    assert code_of(claiming(route.RouteState(), host)) == "invalid"


def test_adding_the_host_that_it_has_by_itself_changes_nothing() -> None:
    assert adding(bare(), "shop--b.localhost") == []


def test_what_an_older_version_let_it_have_it_keeps_until_it_gives_it_up() -> None:
    old = RouteSpec("blog.localhost")
    claim = route.RouteClaimed(host=old.host, path=old.path, service_id="s1", team="b", app="shop")
    held = route.apply(route.RouteState(), claim, 1)

    assert adding(bare(old), old.host) == []
    assert claiming(held, old.host) == []
    assert code_of(adding(bare(old), "shop.example.com")) == ""
    removal = component.decide(bare(old), ChangeSpec(routes_remove=(old,)), META)
    assert code_of(removal) == ""
    freed = route.apply(held, route.RouteReleased(service_id="s1", as_of=2), 2)
    late = route.ClaimRoute(host=old.host, path=old.path, service_id="s1", team="b", app="shop", as_of=3)
    assert code_of(route.decide(freed, late, META)) == "conflict"


@pytest.mark.parametrize(("spelled", "path"), [("//", "/"), ("/api/", "/api"), ("//api//", "/api")])
def test_one_address_has_one_spelling_and_so_one_claim(spelled: str, path: str) -> None:
    asked, plain = RouteSpec("shop.example.com", spelled), RouteSpec("shop.example.com", path)
    unreleased = component.decide(bare(), ChangeSpec(routes_add=(asked,)), META)
    assert not isinstance(unreleased, Refusal)
    assert [e.spec.routes for e in unreleased if isinstance(e, SpecChanged)] == [(plain,)]

    for removal in (ChangeSpec(routes_remove=(asked,)), ChangeSpec(routes_remove=(plain,))):
        assert code_of(component.decide(bare(plain), removal, META)) == ""
    assert code_of(component.decide(bare(asked), ChangeSpec(routes_remove=(asked,)), META)) == "", "as it was claimed"
    assert code_of(adding(bare(), "shop.example.com", "api")) == "invalid"
