"""What can be asked of the read models. Synchronous: call through `asyncio.to_thread`.

Every list and every object is asked for by team, and another team's is simply not there. Must not know HTTP nor how
the rows came to be. Raises DatabaseUnavailable, and BadCursor where a cursor is given.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, Table, and_, func, select, true
from sqlalchemy.exc import ProgrammingError

from events.model.app import AppStatus
from events.model.component_parts import ComponentStatus
from events.model.log_rules import LogRules
from events.model.team import TeamStatus
from projections.apps import APPS
from projections.builds import BUILDS
from projections.components import COMPONENTS
from projections.crons import CRON_RUNS, CRONS
from projections.database import Database
from projections.errors import DatabaseUnavailable
from projections.instances import INSTANCES, ShownStatus
from projections.nodes import NODES
from projections.operations import OPERATIONS
from projections.paging import LIMIT_DEFAULT, Order, page, to_view
from projections.releases import RELEASES
from projections.rollouts import ROLLOUTS
from projections.routes import CLAIMS, ROUTES
from projections.schema import COMPONENT_NAMES, SqlValue
from projections.teams import LOG_RULES, TEAMS, TOKENS
from projections.templates import TEMPLATES
from projections.views import (
    AppView,
    BuildView,
    ClaimView,
    ComponentView,
    CronRunView,
    CronView,
    InstanceView,
    NodeView,
    OperationView,
    Page,
    ReleaseView,
    RolloutView,
    RouteView,
    TeamView,
    TemplateView,
    TokenView,
)

S = TypeVar("S", bound=msgspec.Struct)


# --- teams and tokens -------------------------------------------------------------------------------------------------


def resolve_token(database: Database, sha256: str) -> str | None:
    """The active team that a token's sha256 (hex) acts for; None for a token that is unknown or revoked."""
    query = (
        select(TOKENS.c.team)
        .join(TEAMS, TEAMS.c.name == TOKENS.c.team)
        .where(TOKENS.c.sha256 == sha256, TEAMS.c.status == TeamStatus.ACTIVE.value)
        .order_by(TOKENS.c.team)
    )
    team = database.read(lambda connection: connection.execute(query).scalars().first())
    return None if team is None else str(team)


def component_names(database: Database) -> dict[str, tuple[str, str, str]]:
    """Team, app and component by service_id, of every component there ever was.

    May be asked before the tables are made; that too raises DatabaseUnavailable.
    """
    rows = _rows_of_early(database, COMPONENT_NAMES.select())
    return {str(row["service_id"]): (str(row["team"]), str(row["app"]), str(row["component"])) for row in rows}


def log_rules(database: Database, team: str | None = None, scope: str | None = None) -> dict[tuple[str, str], LogRules]:
    """Rules for log lines by team and scope ("" the team, else app/component); of one team and one scope, or of all."""
    wanted = LOG_RULES.select()
    if team is not None:
        wanted = wanted.where(LOG_RULES.c.team == team)
    if scope is not None:
        wanted = wanted.where(LOG_RULES.c.scope == scope)
    rows = _rows_of_early(database, wanted)
    return {
        (str(row["team"]), str(row["scope"])): msgspec.json.decode(str(row["rules"]), type=LogRules) for row in rows
    }


def _rows_of_early(database: Database, query: Select[Any]) -> Sequence[RowMapping]:
    """Of a query that may be asked before the tables are made; that too raises DatabaseUnavailable."""
    try:
        return database.read(lambda connection: connection.execute(query).mappings().all())
    except ProgrammingError as error:
        raise DatabaseUnavailable("the read models' tables are not there yet") from error


def get_team(database: Database, name: str) -> TeamView | None:
    """The team, deleted or not."""
    return _one(database, TEAMS, TeamView, name=name)


def list_teams(database: Database, *, cursor: str = "", limit: int = LIMIT_DEFAULT) -> Page[TeamView]:
    """Active teams by name. For the platform's operator: it is not scoped."""
    active = TEAMS.c.status == TeamStatus.ACTIVE.value
    return _list(database, TEAMS, TeamView, active, (Order("name"),), cursor, limit)


def list_tokens(database: Database, team: str, *, cursor: str = "", limit: int = LIMIT_DEFAULT) -> Page[TokenView]:
    """A team's tokens by name."""
    return _list(database, TOKENS, TokenView, TOKENS.c.team == team, (Order("name"),), cursor, limit)


# --- apps and components ----------------------------------------------------------------------------------------------


def get_app(database: Database, team: str, name: str) -> AppView | None:
    """The app, destroyed or not: see its status."""
    return _one(database, APPS, AppView, team=team, name=name)


def list_apps(
    database: Database, team: str, *, destroyed: bool = False, cursor: str = "", limit: int = LIMIT_DEFAULT
) -> Page[AppView]:
    """A team's apps by name; without the destroyed ones unless asked."""
    gone = true() if destroyed else APPS.c.status != AppStatus.DESTROYED.value
    return _list(database, APPS, AppView, and_(APPS.c.team == team, gone), (Order("name"),), cursor, limit)


def get_component(database: Database, team: str, app: str, name: str) -> ComponentView | None:
    """The component by its names, destroyed or not: see its status."""
    return _one(database, COMPONENTS, ComponentView, team=team, app=app, name=name)


def list_components(
    database: Database,
    team: str,
    *,
    app: str = "",
    destroyed: bool = False,
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[ComponentView]:
    """A team's components by app and name; `app` empty: of every app."""
    table = COMPONENTS
    gone = true() if destroyed else table.c.status != ComponentStatus.DESTROYED.value
    condition = and_(_scope(table, team, app=app), gone)
    return _list(database, table, ComponentView, condition, (Order("app"), Order("name")), cursor, limit)


# --- releases, builds, rollouts ---------------------------------------------------------------------------------------


def get_release(database: Database, team: str, app: str, component: str, number: int) -> ReleaseView | None:
    """Release `number` of a component, also one of an earlier life of the name; 0: the current one."""
    by = {"status": "current"} if number == 0 else {"number": number}
    return _one(database, RELEASES, ReleaseView, team=team, app=app, component=component, **by)


def list_releases(
    database: Database, team: str, app: str, component: str, *, cursor: str = "", limit: int = LIMIT_DEFAULT
) -> Page[ReleaseView]:
    """A component's releases, newest first; without those of an earlier life of the name."""
    born_after = (
        select(COMPONENTS.c.born_after).where(COMPONENTS.c.service_id == RELEASES.c.service_id).scalar_subquery()
    )
    condition = and_(_scope(RELEASES, team, app=app, component=component), RELEASES.c.number > born_after)
    return _list(database, RELEASES, ReleaseView, condition, (Order("number", True),), cursor, limit)


def get_build(database: Database, team: str, build_id: str) -> BuildView | None:
    """A build by its id."""
    return _one(database, BUILDS, BuildView, team=team, build_id=build_id)


def list_builds(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    status: str = "",
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[BuildView]:
    """Builds, newest first; an empty filter filters nothing."""
    condition = _scope(BUILDS, team, app=app, component=component, status=status)
    order = (Order("requested_at", True), Order("build_id"))
    return _list(database, BUILDS, BuildView, condition, order, cursor, limit)


def list_rollouts(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    status: str = "",
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[RolloutView]:
    """Rollouts, newest first."""
    condition = _scope(ROLLOUTS, team, app=app, component=component, status=status)
    order = (Order("created_at", True), Order("service_id"), Order("release", True))
    return _list(database, ROLLOUTS, RolloutView, condition, order, cursor, limit)


# --- instances, routes, nodes -----------------------------------------------------------------------------------------


def list_instances(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    ended: bool = False,
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[InstanceView]:
    """Instances, newest first; without those that ended unless asked."""
    alive = true() if ended else INSTANCES.c.alive == true()
    condition = and_(_scope(INSTANCES, team, app=app, component=component), alive)
    order = (Order("starting_at", True), Order("id"))
    return _list(database, INSTANCES, InstanceView, condition, order, cursor, limit)


def count_ready(database: Database, team: str, *, app: str = "", component: str = "") -> dict[str, int]:
    """How many instances of each service_id are ready; one with none is left out."""
    condition = and_(
        _scope(INSTANCES, team, app=app, component=component), INSTANCES.c.status == ShownStatus.READY.value
    )
    query = select(INSTANCES.c.service_id, func.count()).where(condition).group_by(INSTANCES.c.service_id)
    return database.read(lambda connection: {str(row[0]): int(row[1]) for row in connection.execute(query)})


def list_routes(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[RouteView]:
    """The addresses that a team's components answer at, by host and path."""
    condition = _scope(ROUTES, team, app=app, component=component)
    order = (Order("host"), Order("path"), Order("service_id"))
    return _list(database, ROUTES, RouteView, condition, order, cursor, limit)


def get_claim(database: Database, host: str, path: str) -> ClaimView | None:
    """Who holds a host and path, whichever team; None when it is free."""
    return _one(database, CLAIMS, ClaimView, host=host, path=path)


def list_claims(database: Database, team: str, *, cursor: str = "", limit: int = LIMIT_DEFAULT) -> Page[ClaimView]:
    """A team's claims by host and path."""
    return _list(database, CLAIMS, ClaimView, CLAIMS.c.team == team, (Order("host"), Order("path")), cursor, limit)


def list_nodes(database: Database, *, cursor: str = "", limit: int = LIMIT_DEFAULT) -> Page[NodeView]:
    """Every node by name, those that left included."""
    return _list(database, NODES, NodeView, true(), (Order("name"),), cursor, limit)


# --- cron jobs --------------------------------------------------------------------------------------------------------


def get_cron(database: Database, team: str, app: str, component: str, name: str) -> CronView | None:
    """A component's job by its name."""
    return _one(database, CRONS, CronView, team=team, app=app, component=component, name=name)


def list_templates(
    database: Database, team: str, *, name: str = "", label: str = "", cursor: str = "", limit: int = LIMIT_DEFAULT
) -> Page[TemplateView]:
    """Versions of templates, what was published last first."""
    order = (Order("published_at", True), Order("name"), Order("label"))
    return _list(
        database, TEMPLATES, TemplateView, _scope(TEMPLATES, team, name=name, label=label), order, cursor, limit
    )


def list_crons(
    database: Database, team: str, *, app: str = "", component: str = "", cursor: str = "", limit: int = LIMIT_DEFAULT
) -> Page[CronView]:
    """Cron jobs by app, component and name."""
    condition = _scope(CRONS, team, app=app, component=component)
    order = (Order("app"), Order("component"), Order("name"))
    return _list(database, CRONS, CronView, condition, order, cursor, limit)


def list_cron_runs(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    cron: str = "",
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[CronRunView]:
    """The runs that jobs remember and those that go on, newest first."""
    condition = _scope(CRON_RUNS, team, app=app, component=component, cron=cron)
    order = (Order("began_at", True), Order("operation"))
    return _list(database, CRON_RUNS, CronRunView, condition, order, cursor, limit)


# --- operations -------------------------------------------------------------------------------------------------------


def get_operation(database: Database, team: str, operation: str) -> OperationView | None:
    """A team's operation by its id; the newest, should two of its streams carry the same id."""
    condition = and_(OPERATIONS.c.team == team, OPERATIONS.c.id == operation)
    order = (Order("started_at", True), Order("on_stream"))
    found = _list(database, OPERATIONS, OperationView, condition, order, "", 1).items
    return found[0] if found else None


def list_operations(
    database: Database,
    team: str,
    *,
    app: str = "",
    component: str = "",
    status: str = "",
    parent: str = "",
    cursor: str = "",
    limit: int = LIMIT_DEFAULT,
) -> Page[OperationView]:
    """Operations, newest first. `parent`: only those that this operation asked for."""
    condition = _scope(OPERATIONS, team, app=app, component=component, status=status, parent=parent)
    order = (Order("started_at", True), Order("id"), Order("on_stream"))
    return _list(database, OPERATIONS, OperationView, condition, order, cursor, limit)


# --- shared -----------------------------------------------------------------------------------------------------------


def _scope(table: Table, team: str, **filters: str) -> ColumnElement[bool]:
    """The team's rows, by the filters that are not empty."""
    return and_(table.c.team == team, *(table.c[name] == value for name, value in filters.items() if value))


def _one(database: Database, table: Table, view: type[S], **equal: SqlValue) -> S | None:
    query = select(table).where(*(table.c[name] == value for name, value in equal.items())).limit(1)
    row = database.read(lambda connection: connection.execute(query).mappings().first())
    return None if row is None else to_view(row, view)


def _list(
    database: Database,
    table: Table,
    view: type[S],
    condition: ColumnElement[bool],
    order: tuple[Order, ...],
    cursor: str,
    limit: int,
) -> Page[S]:
    return database.read(lambda connection: page(connection, table, view, condition, order, cursor, limit))
