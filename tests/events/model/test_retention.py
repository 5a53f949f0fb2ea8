"""Which releases are pruned: the old ones that nothing stands on, by themselves beyond a bound, on request at once."""

import pytest

from events.model.base import Meta, Refusal
from events.model.build import Source
from events.model.component import decide
from events.model.component_commands import (
    ChangeSpec,
    CreateComponent,
    Deploy,
    DestroyComponent,
    PruneReleases,
    Rollback,
    SetRetention,
)
from events.model.component_events import ReleasesPruned
from events.model.component_parts import RELEASES_KEPT, Spec
from events.model.component_retention import prunable
from events.model.operation import OperationSucceeded
from tests.events.model.component_world import SERVICE, World, artifact, created


def _with_releases(count: int) -> World:
    w = created()
    for number in range(count):
        w.next_artifact = artifact(f"a{number + 1}")
        w.send(Deploy(source=Source(kind="upload", digest=f"d{number}")))
        w.run()
    assert w.state.current == count
    return w


def _refused(w: World, command: object) -> Refusal:
    decision = decide(w.state, command, Meta(command_id="x", at=w.now))  # type: ignore[arg-type]
    assert isinstance(decision, Refusal), decision
    return decision


def test_pruning_keeps_the_newest_and_names_the_artifacts_that_nothing_refers_to() -> None:
    w = _with_releases(5)
    w.send(PruneReleases(keep=2))
    assert w.of(ReleasesPruned) == [ReleasesPruned(releases=(1, 2, 3), artifacts=("a1", "a2", "a3"))]
    assert sorted(w.state.releases) == [4, 5]


def test_an_artifact_that_a_kept_release_refers_to_as_well_is_not_named() -> None:
    w = _with_releases(2)
    for scale in (2, 3):
        w.send(ChangeSpec(scale=scale))
        w.run()
    w.send(PruneReleases(keep=1))
    w.send(ChangeSpec(config_set={"A": "1"}))
    w.run()
    w.send(PruneReleases(keep=1))
    assert w.of(ReleasesPruned) == [
        ReleasesPruned(releases=(1,), artifacts=("a1",)),  # an instance that v2 started runs on in v4
        ReleasesPruned(releases=(2, 3)),
    ]


def test_what_serves_and_what_a_rollback_goes_back_to_are_kept_however_few_are_asked_for() -> None:
    w = _with_releases(4)
    w.send(Rollback(to=2))
    w.run()
    w.start = lambda instance: "exit"
    for value in ("1", "2"):
        w.send(ChangeSpec(config_set={"BROKEN": value}))
        w.run()
    assert w.state.current == 5
    w.send(PruneReleases(keep=1))
    assert sorted(w.state.releases) == [4, 5, 7]
    assert w.state.previous_release() == 4


def test_a_rollback_to_a_pruned_release_says_so_and_one_that_never_was_is_another_thing() -> None:
    w = _with_releases(3)
    w.send(PruneReleases(keep=1))
    pruned = _refused(w, Rollback(to=1))
    assert pruned.code == "conflict"
    assert "v1 was pruned" in pruned.message and "v2, v3" in pruned.message
    assert _refused(w, Rollback(to=9)).code == "not_found"
    w.send(Rollback())
    w.run()
    assert w.state.releases[w.state.current].rollback_of == 2


def test_pruning_twice_prunes_once_and_numbers_are_never_used_again() -> None:
    w = _with_releases(3)
    w.send(PruneReleases(keep=1))
    w.send(PruneReleases(keep=1))
    assert len(w.of(ReleasesPruned)) == 1
    w.send(ChangeSpec(scale=2))
    w.run()
    assert w.state.current == 4


def test_beyond_the_bound_the_oldest_goes_with_each_new_release() -> None:
    w = created()
    w.send(SetRetention(keep=3))
    for number in range(6):
        w.next_artifact = artifact(f"a{number + 1}")
        w.send(Deploy(source=Source(kind="upload", digest=f"d{number}")))
        w.run()
    assert [e.releases for e in w.of(ReleasesPruned)] == [(1,), (2,), (3,)]  # type: ignore[attr-defined]
    assert sorted(w.state.releases) == [4, 5, 6]


def test_nothing_is_pruned_by_itself_below_the_usual_bound() -> None:
    w = created()
    w.send(Deploy(source=Source(kind="upload", digest="d")))
    w.run()
    for number in range(RELEASES_KEPT):
        w.send(ChangeSpec(config_set={"N": str(number)}))
        w.run()
        assert bool(w.of(ReleasesPruned)) == (len(w.of(OperationSucceeded)) > RELEASES_KEPT)
    assert len(w.state.releases) == RELEASES_KEPT


@pytest.mark.parametrize("keep", [0, -1, 10_001])
def test_a_bound_that_is_none_is_refused(keep: int) -> None:
    w = _with_releases(1)
    assert _refused(w, PruneReleases(keep=keep)).code == "invalid"
    assert _refused(w, SetRetention(keep=keep)).code == "invalid"


def test_what_is_being_rolled_out_and_what_still_runs_is_kept() -> None:
    w = _with_releases(4)
    w.gateways_answer = False
    w.next_artifact = artifact("new")
    w.send(Deploy(source=Source(kind="upload", digest="new")))
    for instance in list(w.state.instances):
        assert w.state.instances[instance].release not in prunable(w.state, 1)
    assert w.state.operation is not None and w.state.operation.release not in prunable(w.state, 1)


def test_a_destroyed_component_keeps_no_release_and_its_next_life_no_number_of_it() -> None:
    w = _with_releases(2)
    w.send(DestroyComponent())
    w.run()
    assert w.state.releases == {}
    spec = Spec(http=True, auto_host="shop.localhost")
    w.send(CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=spec))
    w.send(Deploy(source=Source(kind="upload", digest="d9")))
    w.run()
    assert (w.state.current, sorted(w.state.releases)) == (3, [3])
    assert _refused(w, Rollback(to=1)).code == "not_found"
