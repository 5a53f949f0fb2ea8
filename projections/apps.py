"""Read model: applications, with the names of their components. Must not know what the components run."""

import msgspec

from events.log.records import StoredEvent
from events.model.app import (
    AppCreated,
    AppDestroyed,
    AppDestroyRequested,
    AppStatus,
    ComponentDeregistered,
    ComponentRegistered,
)
from events.model.base import Event
from projections.model import Projection, ident_of, to_json
from projections.rows import Rows
from projections.schema import json_text, model_table, number, text

APPS = model_table(
    "apps",
    text("team", key=True),
    text("name", key=True),
    text("status"),
    json_text("components", blank="{}"),
    text("operation"),
    number("created_at"),
    text("created_by"),
)


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One app event. Every one of them moves the row's version, which If-Match compares."""
    team, _, name = ident_of(stored.record.stream).partition(".")
    key, record = (team, name), stored.record
    match event:
        case AppCreated():
            status = AppStatus.ACTIVE.value
            rows.new(APPS, stored, team=team, name=name, status=status, created_at=record.at, created_by=record.actor)
        case ComponentRegistered(name=component, service_id=service_id):
            components = {**_components(rows, key), component: service_id}
            rows.change(APPS, key, stored, components=to_json(components))
        case ComponentDeregistered(name=component):
            components = {k: v for k, v in _components(rows, key).items() if k != component}
            rows.change(APPS, key, stored, components=to_json(components))
        case AppDestroyRequested(operation=operation):
            rows.change(APPS, key, stored, status=AppStatus.DESTROYING.value, operation=operation)
        case AppDestroyed():
            rows.change(APPS, key, stored, status=AppStatus.DESTROYED.value, operation="", components="{}")
        case _:
            rows.change(APPS, key, stored)


def _components(rows: Rows, key: tuple[str, str]) -> dict[str, str]:
    row = rows.get(APPS, *key)
    return msgspec.json.decode(str(row["components"]), type=dict[str, str]) if row else {}


PROJECTION = Projection(name="apps", version=1, kinds=frozenset({"app"}), tables=(APPS,), fold=fold)
