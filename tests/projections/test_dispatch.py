"""Each event goes to the read models that take it, and what a model says that it takes leaves nothing out."""

from pathlib import Path

import msgspec
import pytest

from events.log.records import EventRecord
from events.model.base import Event
from events.model.component_events import ComponentCreated, EndpointsChanged, SpecChanged
from events.model.component_parts import Spec
from events.model.registry import AGGREGATES, EVENT_TYPES
from projections import progress
from projections.catalogue import ALL
from projections.database import Database
from projections.dispatch import Dispatch
from tests.projections.recorder import WEB, Recorder, log_of, tell_everything
from tests.projections.test_projector import dump_all, folded


def _names(event: type[Event], *, schema_version: int = 1, kind: str = "component") -> set[str]:
    record = tell_everything()[0]
    changed = msgspec.structs.replace(record, type=event.__name__, schema_version=schema_version)
    return {p.name for p in Dispatch(ALL).of(kind, changed)}


def test_an_event_goes_to_the_models_that_take_it() -> None:
    assert _names(SpecChanged) == {"components"}
    assert _names(EndpointsChanged) == {"components", "instances", "routes"}


def test_a_creation_goes_to_every_model_of_components_because_the_names_are_learnt_from_it() -> None:
    assert _names(ComponentCreated) == {p.name for p in ALL if "component" in p.kinds}


def test_what_nobody_knows_goes_to_every_model_of_the_kind() -> None:
    newer = SpecChanged.schema_version + 1
    assert _names(SpecChanged, schema_version=newer) == {p.name for p in ALL if "component" in p.kinds}


def test_a_stream_of_no_model_goes_nowhere() -> None:
    assert Dispatch(ALL).of_kind("pool") == ()


@pytest.mark.parametrize("projection", [p for p in ALL if p.takes is not None], ids=lambda p: p.name)
def test_a_model_takes_only_events_of_its_kinds(projection: object) -> None:
    (model,) = [p for p in ALL if p is projection]
    assert model.takes is not None
    assert model.takes <= {event for kind in model.kinds for event in AGGREGATES[kind].events}


async def test_a_model_that_is_asked_about_every_event_has_the_same_rows(database: Database, tmp_path: Path) -> None:
    log = await log_of(tell_everything())
    await folded(database, log)
    asked = Database(f"sqlite:///{tmp_path / 'asked.db'}")
    asked.migrate()
    await folded(asked, log, [msgspec.structs.replace(p, takes=None) for p in ALL])
    assert dump_all(database) == dump_all(asked)
    asked.close()


async def test_an_unknown_event_parks_its_stream_for_all_and_what_none_of_them_takes_is_counted(
    database: Database,
) -> None:
    recorder = Recorder()
    story = [r for r in tell_everything() if r.stream == f"component/{WEB}"][:1]
    known = recorder.add(f"component/{WEB}", SpecChanged(spec=_spec(story[0])))
    unknown = msgspec.structs.replace(known, type="ComponentGrew", version=2)
    behind = msgspec.structs.replace(known, version=3)
    await folded(database, await log_of([*story, unknown, behind], partitions=1))
    parked = {p.projection: p.behind for p in progress.parked(database)}
    assert parked == {p.name: 1 for p in ALL if "component" in p.kinds}


def _spec(record: EventRecord) -> Spec:
    event = msgspec.msgpack.decode(record.body, type=EVENT_TYPES[record.type])
    assert isinstance(event, ComponentCreated)
    return event.spec
