"""A newer deploy takes the place of one whose build waits for a builder, and of no other."""

from events.model.base import Meta
from events.model.build import Source
from events.model.component import decide
from events.model.component_commands import CancelOperation, ChangeSpec, Deploy, ReportBuildBegun, Restart, Rollback
from events.model.component_events import AbandonedBuildTold, BuildAbandoned, DeployBuildBegun, DeployRequested
from events.model.component_progress import effects
from events.model.operation import OperationCancelled, OperationStarted, OperationSucceeded, OperationTimedOut
from tests.events.model.component_world import SECOND, SERVICE, World, created


def _deploy(digest: str) -> Deploy:
    return Deploy(source=Source(kind="upload", digest=digest))


def _queued() -> World:
    w = created()
    w.builds = False
    return w


def test_the_newest_of_three_deploys_that_wait_is_built_and_the_others_say_what_took_their_place() -> None:
    w = _queued()
    first, second, third = (w.send(_deploy(f"d{n}")) for n in range(3))
    assert w.state.operation is not None and w.state.operation.id == third
    ended = {e.operation: e.reason for e in w.of(OperationCancelled)}  # type: ignore[attr-defined]
    assert ended.keys() == {first, second}
    assert second in ended[first] and third in ended[second]
    assert w.abandoned == [f"{SERVICE}-{first}", f"{SERVICE}-{second}"]
    assert w.state.abandoned == ()
    w.builds = True
    w.run()
    assert w.state.current == 1
    assert [e.operation for e in w.of(OperationSucceeded)] == [third]  # type: ignore[attr-defined]


def test_a_deploy_whose_build_has_begun_is_not_superseded() -> None:
    w = created()
    w.builds_end = False
    first = w.send(_deploy("d1"))
    assert w.of(DeployBuildBegun) == [DeployBuildBegun(operation=first)]
    before = list(w.events)
    assert w.send(_deploy("d2")) == "conflict"
    assert w.events == before


def test_only_a_deploy_supersedes() -> None:
    w = _queued()
    w.send(_deploy("d1"))
    for other in (ChangeSpec(scale=2), Restart(), Rollback()):
        assert w.send(other) == "conflict"


def test_a_build_is_abandoned_before_its_deploy_ends_and_once() -> None:
    w = _queued()
    first = w.send(_deploy("d1"))
    w.send(_deploy("d2"))
    kinds = [type(e) for e in w.events]
    at = kinds.index(BuildAbandoned)
    assert kinds[at : at + 4] == [BuildAbandoned, OperationCancelled, OperationStarted, DeployRequested]
    assert w.of(AbandonedBuildTold) == [AbandonedBuildTold(build_id=f"{SERVICE}-{first}")]
    assert not any(e.kind == "abandon-build" for e in effects(w.state))


def test_a_late_word_of_a_superseded_build_changes_nothing() -> None:
    w = _queued()
    first = w.send(_deploy("d1"))
    w.send(_deploy("d2"))
    late = ReportBuildBegun(build_id=f"{SERVICE}-{first}")
    assert list(decide(w.state, late, Meta(command_id="late", at=w.now))) == []  # type: ignore[arg-type]


def test_a_cancelled_deploy_that_waits_is_superseded_all_the_same() -> None:
    w = _queued()
    first = w.send(_deploy("d1"))
    w.send(CancelOperation(operation=first))
    w.send(_deploy("d2"))
    assert [e.operation for e in w.of(OperationCancelled)] == [first]  # type: ignore[attr-defined]


def test_a_build_that_outlives_its_deploys_deadline_is_abandoned() -> None:
    w = created()
    w.builds_end = False
    first = w.send(_deploy("d1"))
    w.now += 24 * 3600 * SECOND
    w.settle()
    assert [e.operation for e in w.of(OperationTimedOut)] == [first]  # type: ignore[attr-defined]
    assert w.abandoned == [f"{SERVICE}-{first}"]
