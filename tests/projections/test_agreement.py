"""The read models say what the aggregates say: after every single event, not only at the end."""

import msgspec
import pytest

from events.log.records import EventRecord, Position, StoredEvent
from events.model.component_parts import ComponentState, Endpoint, InstanceStatus, Spec
from events.model.registry import apply_record, decode_event
from projections import components, crons, instances, operations, releases
from projections.database import Database
from projections.model import learn_names
from projections.rows import Rows
from tests.projections.recorder import CLOCK, WEB, tell_everything

FOLDED = (components.PROJECTION, instances.PROJECTION, releases.PROJECTION, operations.PROJECTION, crons.PROJECTION)


@pytest.mark.parametrize("service_id", [WEB, CLOCK])
def test_after_every_event_the_rows_agree_with_the_aggregates_state(database: Database, service_id: str) -> None:
    story = [record for record in tell_everything() if record.stream == f"component/{service_id}"]

    def tell(connection: object) -> None:
        rows = Rows(connection)  # type: ignore[arg-type]
        state: msgspec.Struct = ComponentState()
        for offset, record in enumerate(story):
            state = apply_record(state, record)
            _fold(rows, StoredEvent(Position(0, offset), 0, record))
            assert isinstance(state, ComponentState)
            _agree(rows, record, state, service_id)

    database.transact(tell)


@pytest.mark.parametrize("service_id", [WEB, CLOCK])
def test_what_was_read_ahead_is_what_would_have_been_asked_for(database: Database, service_id: str) -> None:
    """Of a story told half way, the rest with and without reading ahead leaves the same rows."""
    story = [record for record in tell_everything() if record.stream == f"component/{service_id}"]
    half = len(story) // 2

    def told(ahead: bool) -> list[object]:
        def tell(connection: object, offsets: range) -> list[object]:
            rows = Rows(connection)  # type: ignore[arg-type]
            if ahead:
                for projection in FOLDED:
                    for table in projection.asks_for:
                        rows.load(table, [service_id, "0" * 16])
            for offset in offsets:
                _fold(rows, StoredEvent(Position(0, offset), 0, story[offset]))
            found = [rows.select(table, service_id=service_id) for p in FOLDED for table in p.tables]
            rows.flush()
            return found  # type: ignore[return-value]

        database.transact(lambda connection: tell(connection, range(half)))
        found = database.transact(lambda connection: tell(connection, range(half, len(story))))

        def forget(connection: object) -> None:
            for projection in FOLDED:
                for table in projection.tables:
                    connection.execute(table.delete())  # type: ignore[attr-defined]

        database.transact(forget)
        return found

    assert told(ahead=True) == told(ahead=False)


def _fold(rows: Rows, stored: StoredEvent) -> None:
    event = decode_event(stored.record)
    learn_names(rows, event)
    for projection in FOLDED:
        projection.fold(rows, stored, event)


def _agree(rows: Rows, record: EventRecord, state: ComponentState, service_id: str) -> None:
    row = rows.get(components.COMPONENTS, service_id)
    assert row is not None
    operation = state.operation
    assert (row["status"], row["version"], row["current"]) == (state.status, state.version, state.current), record
    assert msgspec.json.decode(str(row["spec"]), type=Spec) == state.spec, record
    assert msgspec.json.decode(str(row["endpoints"]), type=tuple[Endpoint, ...]) == state.endpoints
    assert (row["born_after"], row["last_release"]) == (state.born_after, state.last_release)
    assert (row["routing_version"], row["applied_version"]) == (state.routing_version, state.applied_version)
    told = (row["operation"], row["operation_kind"], row["operation_phase"], row["build_id"], row["cancel_reason"])
    if operation is None:
        assert told == ("", "", "", "", ""), record
    else:
        wanted = (operation.id, operation.kind, operation.phase, operation.build_id, operation.cancel_reason)
        assert told == wanted, record
    _agree_on_parts(rows, record, state, service_id)


def _agree_on_parts(rows: Rows, record: EventRecord, state: ComponentState, service_id: str) -> None:
    alive = {row["id"]: row for row in rows.select(instances.INSTANCES, service_id=service_id, alive=True)}
    assert alive.keys() == state.instances.keys(), record
    for instance in state.instances.values():
        row = alive[instance.id]
        assert (row["status"], row["slot"], row["release"]) == (instance.status, instance.slot, instance.release)
        if instance.status is not InstanceStatus.STARTING:
            assert (row["host"], row["port"], row["pid"]) == (instance.host, instance.port, instance.pid)
        draining = any(e.instance == instance.id and e.draining for e in state.endpoints)
        if any(e.instance == instance.id for e in state.endpoints):
            assert row["draining"] == draining, record
    current = rows.select(releases.RELEASES, service_id=service_id, status="current")
    assert [row["number"] for row in current] == ([state.current] if state.current else []), record
    _agree_on_crons(rows, record, state, service_id)
    running = {row["id"] for row in rows.select(operations.OPERATIONS, service_id=service_id, status="running")}
    if record.type != "OperationStarted":  # the state knows a task only from the next event of the same batch
        assert running == {*state.tasks, *([state.operation.id] if state.operation else [])}, record


def _agree_on_crons(rows: Rows, record: EventRecord, state: ComponentState, service_id: str) -> None:
    jobs = {str(row["name"]): row for row in rows.select(crons.CRONS, service_id=service_id)}
    assert jobs.keys() == state.crons.keys(), record
    for name, cron in state.crons.items():
        row, job = jobs[name], cron.job
        assert (row["schedule"], row["command"], row["zone"], row["policy"]) == (
            job.schedule, job.command, job.zone, job.policy,
        )  # fmt: skip
        assert (row["suspended"], row["next_at"], row["last_tick"]) == (cron.suspended, cron.next_at, cron.last_tick)
        assert (row["missed"], row["skipped"]) == (cron.missed, cron.skipped), record
        runs = rows.select(crons.CRON_RUNS, service_id=service_id, cron=name)
        over = {(row["operation"], row["status"], row["tick"], row["reason"]) for row in runs if row["ended_at"]}
        assert over == {(run.operation, run.outcome, run.tick, run.reason) for run in cron.runs}, record
        going = {row["operation"] for row in runs if not row["ended_at"]}
        assert going == {operation for operation, task in state.tasks.items() if task.cron == name}, record
