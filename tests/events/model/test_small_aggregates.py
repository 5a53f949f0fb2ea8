"""Team, app, build, route and node: which commands are taken in which state, as tables."""

import pytest

from events.model import app, build, node, route, team
from events.model.base import Command, Event, Meta, Refusal
from events.model.build import Artifact, BuildStatus, FinishBuild, Source

META = Meta(command_id="op1", at=1_000, actor="tester", reason="because")


def told(module: object, state: object, *commands: Command, at: int = 1_000) -> object:
    """The state after commands that must all be taken."""
    for command in commands:
        decision = module.decide(state, command, META)  # type: ignore[attr-defined]
        assert not isinstance(decision, Refusal), decision
        for event in decision:
            state = module.apply(state, event, at)  # type: ignore[attr-defined]
    return state


def refused(module: object, state: object, command: Command) -> str:
    decision = module.decide(state, command, META)  # type: ignore[attr-defined]
    assert isinstance(decision, Refusal)
    assert decision.message
    return decision.code


CREATE_APP = app.CreateApp(team="default", name="shop")
REGISTER = app.RegisterComponent(name="web", service_id="s1")
REQUEST = build.RequestBuild(
    build_id="s1-op", service_id="s1", team="t", app="a", component="web", operation="op",
    source=Source(kind="upload", digest="d"),
)  # fmt: skip
CLAIM = route.ClaimRoute(host="a.example.com", path="/", service_id="s1", team="t", app="a")
JOIN = node.JoinNode(name="n1", address="127.0.0.1", cpus=2, memory_bytes=1, runtime="processes")


def test_an_app_is_destroyed_when_its_last_component_is_gone() -> None:
    state = told(app, app.AppState(), CREATE_APP, REGISTER, app.DestroyApp())
    assert app.progress(state, 2_000) == []  # type: ignore[arg-type]
    state = told(app, state, app.DeregisterComponent(name="web"))
    events: list[Event] = app.progress(state, 2_000)  # type: ignore[arg-type]
    assert [type(e).__name__ for e in events] == ["AppDestroyed", "OperationSucceeded"]


def test_an_app_whose_destruction_takes_too_long_says_so_and_goes_on() -> None:
    state = told(app, app.AppState(), CREATE_APP, REGISTER, app.DestroyApp())
    late = app.next_deadline(state, 1_000)  # type: ignore[arg-type]
    assert late is not None
    [timed_out] = app.progress(state, late)  # type: ignore[arg-type]
    assert "web" in timed_out.reason  # type: ignore[attr-defined]
    state = app.apply(state, timed_out, late)  # type: ignore[arg-type]
    state = told(app, state, app.DeregisterComponent(name="web"))
    assert [type(e).__name__ for e in app.progress(state, late)] == ["AppDestroyed"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "state", "command", "code"),
    [
        (app, told(app, app.AppState(), CREATE_APP), CREATE_APP, "conflict"),
        (app, app.AppState(), REGISTER, "not_found"),
        (app, told(app, app.AppState(), CREATE_APP, REGISTER, app.DestroyApp()), CREATE_APP, "conflict"),
        (app, app.AppState(), app.CreateApp(team="t", name="../x"), "invalid"),
        (team, team.TeamState(), team.IssueTeamToken(name="ci", sha256="0"), "not_found"),
        (team, told(team, team.TeamState(), team.CreateTeam(name="t")), team.CreateTeam(name="t"), "conflict"),
        (team, team.TeamState(), team.CreateTeam(name="A B"), "invalid"),
        (build, build.BuildState(), build.StartBuild(builder="b"), "not_found"),
        (route, told(route, route.RouteState(), CLAIM),
         route.ClaimRoute(host="a.example.com", path="/", service_id="other", team="t", app="b"), "conflict"),
        (route, route.RouteState(),
         route.ClaimRoute(host="a b", path="/", service_id="s1", team="t", app="a"), "invalid"),
        (route, route.RouteState(),
         route.ClaimRoute(host="a.example.com", path="/../x", service_id="s1", team="t", app="a"), "invalid"),
        (node, node.NodeState(), node.LeaveNode(reason="x"), "not_found"),
    ],
)  # fmt: skip
def test_what_a_state_does_not_allow_is_refused(module: object, state: object, command: Command, code: str) -> None:
    assert refused(module, state, command) == code


def test_a_late_word_of_an_earlier_attempt_does_not_end_a_build() -> None:
    state = told(build, build.BuildState(), REQUEST, build.StartBuild(builder="b"), build.StartBuild(builder="c"))
    late = FinishBuild(attempt=1, status=BuildStatus.FAILED, reason="died")
    assert build.decide(state, late, META) == []  # type: ignore[arg-type]
    artifact = Artifact(digest="d", size_bytes=1, processes={"web": "x"})
    done = told(build, state, FinishBuild(attempt=2, status=BuildStatus.SUCCEEDED, artifact=artifact))
    assert done.status is BuildStatus.SUCCEEDED  # type: ignore[attr-defined]


def test_a_build_whose_builder_dies_again_and_again_ends() -> None:
    start = build.StartBuild(builder="b")
    state = told(build, build.BuildState(), REQUEST, *[start] * (build.MAX_ATTEMPTS + 1))
    assert state.status is BuildStatus.FAILED  # type: ignore[attr-defined]
    assert state.code == "builder_died"  # type: ignore[attr-defined]


def test_a_queued_build_is_cancelled_at_once_and_a_running_one_is_asked_to_stop() -> None:
    queued = told(build, build.BuildState(), REQUEST, build.CancelBuild())
    assert queued.status is BuildStatus.CANCELLED  # type: ignore[attr-defined]
    running = told(build, build.BuildState(), REQUEST, build.StartBuild(builder="b"), build.CancelBuild())
    assert running.status is BuildStatus.RUNNING  # type: ignore[attr-defined]
    assert running.cancel_requested  # type: ignore[attr-defined]


def test_a_route_is_held_by_one_and_free_after_its_release() -> None:
    held = told(route, route.RouteState(), CLAIM, CLAIM)
    assert held.service_id == "s1"  # type: ignore[attr-defined]
    stranger = route.ReleaseRoute(service_id="other")
    assert route.decide(held, stranger, META) == []  # type: ignore[arg-type]
    free = told(route, held, route.ReleaseRoute(service_id="s1"))
    assert free.status is route.RouteStatus.FREE  # type: ignore[attr-defined]


def test_a_revoked_token_is_gone() -> None:
    issued = told(team, team.TeamState(), team.CreateTeam(name="t"), team.IssueTeamToken(name="ci", sha256="ab"))
    assert issued.tokens == {"ci": "ab"}  # type: ignore[attr-defined]
    assert told(team, issued, team.RevokeTeamToken(name="ci")).tokens == {}  # type: ignore[attr-defined]


def test_a_node_that_was_lost_may_join_again() -> None:
    state = told(node, node.NodeState(), JOIN, node.ReportNodeLost(reason="silent"), JOIN)
    assert state.status is node.NodeStatus.READY  # type: ignore[attr-defined]


def test_a_node_is_drained_until_it_is_told_otherwise_or_gone() -> None:
    state = told(node, node.NodeState(), JOIN, node.DrainNode())
    assert (state.wish, state.told) == ("drain", "")  # type: ignore[attr-defined]
    state = told(node, state, node.ReportNodeTold(wish="drain"))
    assert state.told == "drain"  # type: ignore[attr-defined]
    state = told(node, state, JOIN)
    assert (state.wish, state.told) == ("drain", ""), "a new agent is told anew"  # type: ignore[attr-defined]
    state = told(node, state, node.UndrainNode())
    assert state.wish == state.told == ""  # type: ignore[attr-defined]
    state = told(node, state, node.LeaveNode(reason="burnt"), node.ReportNodeTold(wish="gone"))
    assert state.wish == state.told == "gone"  # type: ignore[attr-defined]
    state = told(node, state, JOIN)
    assert (state.wish, state.told) == ("", "gone"), "that it is back must be told"  # type: ignore[attr-defined]


def test_a_late_word_of_a_wish_that_changed_does_not_count() -> None:
    state = told(node, node.NodeState(), JOIN, node.DrainNode(), node.UndrainNode())
    assert told(node, state, node.ReportNodeTold(wish="drain")) == state


@pytest.mark.parametrize("command", [node.DrainNode(), node.UndrainNode(), node.LeaveNode(reason="x")])
def test_a_node_that_never_was_cannot_be_drained(command: Command) -> None:
    assert refused(node, node.NodeState(), command) == "not_found"
