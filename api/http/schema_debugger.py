"""The bodies of the debugger: steps, causes, the story of a field, an app between two times, what-if, checks.

Shapes only, as in `schema`; `events.replay.documents` fills them.
"""

from datetime import datetime
from typing import Annotated

from pydantic import Field, JsonValue

from api.http.schema import Body, Change, EventView, View


class EventBrief(View):
    """An event without its body. `operation` is the correlation id."""

    position: str
    event_id: str
    stream: str
    version: int
    type: str
    at: datetime
    command_id: str
    operation: str
    actor: str
    reason: str


class CausedBy(EventBrief):
    """An event, and in whose name and why the operation that it belongs to was asked for."""

    asked_by: str
    asked_reason: str


class KindOfChange(Change):
    """A difference; `kind`: added, removed, changed, or (of a check) reordered."""

    kind: str


class ChangeBy(KindOfChange):
    """A difference and the last event that set this place; null only where none between the two moments did."""

    by: CausedBy | None


class DiffView(View):
    """What changed in a stream's state between two moments, each a version, and by which events."""

    team: str | None
    stream: str
    from_version: int
    to_version: int
    changes: list[ChangeBy]


class AppChangeView(ChangeBy):
    """`area`: app, component, config, routes, releases, instances, builds or nodes; `name`: which of them."""

    area: str
    name: str
    stream: str


class AppDiffView(View):
    """What changed in everything an app is made of; grouped by area, sorted by name. `streams`: those looked at."""

    team: str
    app: str
    from_: datetime = Field(alias="from")
    to: datetime
    streams: list[str]
    changes: list[AppChangeView]


class CauseView(View):
    """A link of the chain behind an event. `kind`: event, command or operation; `how` tells how the one before it in
    the list comes from this one; `event` is null where the log does not have it or the token does not reach it."""

    kind: str
    id: str
    how: str
    actor: str
    reason: str
    event: EventBrief | None


class StepView(View):
    """One event: what led to it, nearest first, and what it changed; `before` and `after` with `states=true` only."""

    event: EventView
    causes: list[CauseView]
    changes: list[KindOfChange]
    before: dict[str, JsonValue] | None = None
    after: dict[str, JsonValue] | None = None


class SettingView(View):
    """One time a field was set; `kind`: added, changed or removed."""

    kind: str
    before: JsonValue
    after: JsonValue
    by: CausedBy


class WhyView(View):
    """The story of a field, newest first. `times`: how often it was set in all; `present`: it is there now."""

    team: str | None
    stream: str
    field: str
    present: bool
    value: JsonValue
    times: int
    settings: list[SettingView]


class WhatIf(Body):
    """Commands of the stream's kind, each with its `type`, decided one after another against the state at a moment
    (at most one of `at`, `offset`, `version`; now without). Nothing is written and nothing happens."""

    commands: list[dict[str, JsonValue]] = Field(min_length=1, max_length=100)
    at: Annotated[str, Field(max_length=64, description="ISO-8601")] | None = None
    offset: int | None = Field(default=None, ge=0)
    version: int | None = Field(default=None, ge=0)


class RefusalView(View):
    code: str
    message: str
    hint: str


class WouldBeView(View):
    """An event that would be written; `follows`: by itself, from the state that the command led to."""

    type: str
    follows: bool
    body: dict[str, JsonValue]


class OutcomeView(View):
    """What one command would come to: its events and what they change, or its refusal. `wanted`: what it asks for,
    compared with what is: limits, variables, artifact by their names, `routes` each on its own, `ports` by instance."""

    command: str
    refusal: RefusalView | None
    events: list[WouldBeView]
    wanted: list[KindOfChange]
    changes: list[KindOfChange]


class WhatIfView(View):
    """`version`: that of the state which the first command was decided against. `notes`: what was not looked at."""

    team: str | None
    stream: str
    version: int
    outcomes: list[OutcomeView]
    notes: list[str]


class VerdictView(View):
    """Two folds of a stream in processes that differ in hash seed, clock, time zone, locale and environment. Where
    not `same`: the `version` of the first event after which they differ, and what differs."""

    team: str | None
    stream: str
    events: int
    same: bool
    sha256: str
    version: int
    changes: list[KindOfChange]
    error: str


class NamedView(View):
    """`team` is empty for what is the platform's own."""

    team: str
    name: str
    status: str


class ComponentThenView(View):
    """A component as it was. `operation`: the one under way, empty for none."""

    team: str
    app: str
    component: str
    status: str
    release: int
    scale: int
    instances: int
    ready: int
    routes: list[str]
    operation: str


class PlatformThenView(View):
    """Everything there was at a time (null: now), a line each; `events` and `streams` count what was folded for it."""

    at: datetime | None
    events: int
    streams: int
    teams: list[NamedView]
    apps: list[NamedView]
    components: list[ComponentThenView]
    nodes: list[NamedView]
    routes: list[NamedView]
    builds: list[NamedView]
    operations: list[NamedView]
