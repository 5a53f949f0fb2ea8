"""The read models say what the aggregates say: after every single event, not only at the end."""

import msgspec

from events.log.records import EventRecord, Position, StoredEvent
from events.model.component_parts import ComponentState, Endpoint, InstanceStatus, Spec
from events.model.registry import apply_record, decode_event
from projections import components, instances, operations, releases
from projections.database import Database
from projections.model import learn_names
from projections.rows import Rows
from tests.projections.recorder import WEB, tell_everything

FOLDED = (components.PROJECTION, instances.PROJECTION, releases.PROJECTION, operations.PROJECTION)


def test_after_every_event_the_rows_agree_with_the_aggregates_state(database: Database) -> None:
    story = [record for record in tell_everything() if record.stream == f"component/{WEB}"]

    def tell(connection: object) -> None:
        rows = Rows(connection)  # type: ignore[arg-type]
        state: msgspec.Struct = ComponentState()
        for offset, record in enumerate(story):
            state = apply_record(state, record)
            _fold(rows, StoredEvent(Position(0, offset), 0, record))
            assert isinstance(state, ComponentState)
            _agree(rows, record, state)

    database.transact(tell)


def _fold(rows: Rows, stored: StoredEvent) -> None:
    event = decode_event(stored.record)
    learn_names(rows, event)
    for projection in FOLDED:
        projection.fold(rows, stored, event)


def _agree(rows: Rows, record: EventRecord, state: ComponentState) -> None:
    row = rows.get(components.COMPONENTS, WEB)
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
    _agree_on_parts(rows, record, state)


def _agree_on_parts(rows: Rows, record: EventRecord, state: ComponentState) -> None:
    alive = {row["id"]: row for row in rows.select(instances.INSTANCES, service_id=WEB, alive=True)}
    assert alive.keys() == state.instances.keys(), record
    for instance in state.instances.values():
        row = alive[instance.id]
        assert (row["status"], row["slot"], row["release"]) == (instance.status, instance.slot, instance.release)
        if instance.status is not InstanceStatus.STARTING:
            assert (row["host"], row["port"], row["pid"]) == (instance.host, instance.port, instance.pid)
        draining = any(e.instance == instance.id and e.draining for e in state.endpoints)
        if any(e.instance == instance.id for e in state.endpoints):
            assert row["draining"] == draining, record
    current = rows.select(releases.RELEASES, service_id=WEB, status="current")
    assert [row["number"] for row in current] == ([state.current] if state.current else []), record
    running = {row["id"] for row in rows.select(operations.OPERATIONS, service_id=WEB, status="running")}
    if record.type != "OperationStarted":  # the state knows a task only from the next event of the same batch
        assert running == {*state.tasks, *([state.operation.id] if state.operation else [])}, record
