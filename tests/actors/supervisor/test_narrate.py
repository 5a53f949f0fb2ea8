"""Platform lines: what the owner of an application reads of it, and that every told event has words."""

import msgspec

from actors.logs.line import operation_stream
from actors.supervisor.narrate import TOLD_TYPES, Narrator
from events.log.records import EventRecord
from events.model.base import Event
from events.model.component_events import InstanceExited, InstanceReady, RoutingApplied
from events.model.operation import OperationFailed, OperationStarted, OperationSucceeded
from events.model.registry import EVENT_TYPES, encode_event


def record(event: Event, stream: str = "component/0123456789abcdef") -> EventRecord:
    return EventRecord(
        stream=stream, version=1, type=type(event).__name__, schema_version=1, event_id="e", at=0, command_id="c",
        correlation_id="c", causation_id="c", actor="a", reason="", traceparent="", body=encode_event(event),
    )  # fmt: skip


def told(*events: Event) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    Narrator(lambda stream, text: lines.append((stream, text)), never)([record(e) for e in events])
    return lines


def never(stream: str, outcome: str) -> None:
    raise AssertionError(f"{stream} ended: {outcome}")


def test_a_crash_is_told_with_its_reason_and_inner_events_are_not() -> None:
    crash = InstanceExited(instance="i-1", exit_code=3, reason="exit code 3")
    lines = told(InstanceReady(instance="i-1"), RoutingApplied(version=1, gateways=()), crash)
    assert lines == [
        ("0123456789abcdef", "instance i-1 is ready"),
        ("0123456789abcdef", "instance i-1 crashed: exit code 3"),
    ]


def test_an_operation_that_is_over_in_the_append_in_which_it_began_is_not_told() -> None:
    started = OperationStarted(operation="c", kind="config", detail="A")
    assert told(started, OperationSucceeded(operation="c")) == []
    assert told(started)[0] == ("0123456789abcdef", "config A has begun (operation c)")


def test_an_operation_has_a_log_of_its_own_that_ends_with_it() -> None:
    service, own = "0123456789abcdef", operation_stream("0123456789abcdef", "c")
    lines: list[tuple[str, str]] = []
    ended: list[tuple[str, str]] = []
    narrate = Narrator(lambda *line: lines.append(line), lambda *how: ended.append(how))
    narrate([record(OperationStarted(operation="c", kind="deploy", detail=""))])
    narrate([record(InstanceReady(instance="i-1"))])
    other = msgspec.structs.replace(record(InstanceReady(instance="i-2")), correlation_id="d")
    narrate([other])
    narrate(
        [
            record(OperationFailed(operation="c", code="no_port", reason="no port")),
            record(InstanceReady(instance="i-3")),
        ]
    )
    said = ["deploy has begun (operation c)", "instance i-1 is ready", "operation c failed: no port"]
    assert [text for stream, text in lines if stream == own] == said
    assert [text for stream, text in lines if stream == service] == [
        *said[:2], "instance i-2 is ready", said[2], "instance i-3 is ready",
    ]  # fmt: skip
    assert ended == [(own, "failed")]


def test_whoever_takes_over_in_the_middle_of_an_operation_goes_on_with_its_log() -> None:
    own = operation_stream("0123456789abcdef", "c")
    lines: list[tuple[str, str]] = []
    ended: list[tuple[str, str]] = []
    narrate = Narrator(lambda *line: lines.append(line), lambda *how: ended.append(how))
    narrate([record(InstanceReady(instance="i-1"))], "c")
    narrate([record(OperationSucceeded(operation="c"))])
    assert [text for stream, text in lines if stream == own] == ["instance i-1 is ready", "operation c succeeded"]
    assert ended == [(own, "succeeded")]


def test_every_told_type_is_an_event_that_exists() -> None:
    assert EVENT_TYPES.keys() >= TOLD_TYPES


def test_streams_that_are_no_component_say_nothing() -> None:
    lines: list[str] = []
    build = msgspec.structs.replace(record(InstanceReady(instance="i")), stream="build/0123456789abcdef-x")
    Narrator(lambda stream, text: lines.append(text), never)([build])
    assert lines == []
