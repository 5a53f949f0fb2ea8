"""The story of an operation: which steps it tells, with which times, and how it ends."""

from api.cli.document import Document
from api.cli.story import Story
from tests.api.cli.conftest import deploy_events, event


def told(events: list[dict[str, object]]) -> tuple[Story, list[tuple[str, str, float]]]:
    story = Story("op1")
    steps = [step for one in events for step in story.on(Document(one))]
    return story, [(step.name, step.detail, round(step.seconds, 3)) for step in steps]


def test_a_deploy_is_told_step_by_step_with_the_time_of_each() -> None:
    story, steps = told(deploy_events(release=4))

    assert steps == [
        ("queue", "builder builder-0", 0.1),
        ("build", "Python because of requirements.txt", 2.0),
        ("release", "v4", 0.1),
        ("ready", "1 instance", 1.01),
        ("routed", "1 gateway", 0.04),
        ("drained", "1 old instance(s)", 0.05),
        ("live", "v4", 0.2),
    ]
    assert story.ending is not None and story.ending.good
    assert (story.release, story.kind, round(story.seconds, 2)) == (4, "deploy", 3.51)


def test_a_failure_carries_reason_lines_and_what_still_serves() -> None:
    failed = event("OperationFailed", 5.0, code="crashed", reason="it exited", lines=["Traceback"], still_serving=3)

    story, _ = told([event("OperationStarted", 0.0, kind="deploy"), failed])

    assert story.ending is not None and not story.ending.good
    assert (story.ending.detail, story.ending.lines, story.ending.still_serving) == ("it exited", ("Traceback",), 3)


def test_events_of_a_child_are_another_story() -> None:
    story, steps = told([event("ReleaseCreated", 1.0, operation="op1-worker", release={"number": 9})])

    assert (story.release, steps) == (0, [])


def test_the_release_step_and_the_other_processes_have_steps_of_their_own() -> None:
    _, steps = told(
        [
            event("InstanceStarting", 1.0, instance="ab-2", kind="release_step"),
            event("InstanceExited", 2.0, instance="ab-2", exit_code=0),
            event("SiblingsRequested", 3.0, siblings=[{"process": "worker"}]),
            event("SiblingEnded", 4.0, process="worker", succeeded=False, reason="it crashed"),
        ]
    )

    assert [step[:2] for step in steps] == [("release step", "exit code 0"), ("worker", "it crashed")]


def test_a_crash_during_a_deploy_is_no_release_step() -> None:
    _, steps = told([event("InstanceExited", 1.0, instance="ab-7", exit_code=1)])

    assert steps == []
