"""The read models as the handlers ask them: off the event loop, within what a principal reaches, waiting where asked.

Knows the queries of `projections`; nothing of HTTP bodies.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from api.http.call import Call, parse_position
from api.http.identity import Principal
from api.http.problems import not_found, unavailable
from api.http.queries import Read
from events.log.port import EventLog
from events.log.records import Position, partition_of
from events.model.base import partition_key
from projections import queries
from projections.apps import APPS
from projections.builds import BUILDS
from projections.components import COMPONENTS
from projections.database import Database
from projections.operations import OPERATIONS
from projections.paging import Order, page
from projections.progress import Watermarks
from projections.schema import COMPONENT_NAMES
from projections.views import AppView, BuildView, ComponentView, OperationView, Page, TeamView

if TYPE_CHECKING:
    from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")

WAIT_SECONDS = 5.0  # for min_position
FRESH_SECONDS = 2.0  # for what seems absent and may only not be folded yet

_OPERATION_ORDER = (Order("started_at", True), Order("id"), Order("on_stream"))
_BUILD_ORDER = (Order("requested_at", True), Order("build_id"))


class Reads:
    """Asks the database in threads; safe to share between tasks of one loop."""

    def __init__(self, database: Database, event_log: EventLog) -> None:
        self._database = database
        self._log = event_log
        self._watermarks = Watermarks(database)

    async def ask(self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query of `projections` in a thread. Raises ProjectionsError."""
        return await asyncio.to_thread(query, self._database, *args, **kwargs)

    async def token(self, sha256: str) -> str | None:
        """The team that a token acts for."""
        return await self.ask(queries.resolve_token, sha256)

    async def names_of(self, service_id: str) -> tuple[str, str, str] | None:
        """team, app, component of a service_id."""
        query = COMPONENT_NAMES.select().where(COMPONENT_NAMES.c.service_id == service_id)
        row = await asyncio.to_thread(
            self._database.read, lambda connection: connection.execute(query).mappings().one_or_none()
        )
        return None if row is None else (str(row["team"]), str(row["app"]), str(row["component"]))

    async def all_names(self) -> dict[str, tuple[str, str, str]]:
        """team, app, component by service_id, of every component there ever was."""
        return await asyncio.to_thread(queries.component_names, self._database)

    # --- waiting ------------------------------------------------------------------------------------------------------

    async def wait_for(self, call: Call) -> None:
        """Wait for the call's `min_position`, at most 5 s. Raises HttpProblem 503 `behind`."""
        wanted = call.query.min_position if isinstance(call.query, Read) else None
        if wanted is None:
            return
        position = parse_position(wanted, self._log.partitions)
        if not await self._watermarks.wait_for(position, WAIT_SECONDS):
            detail = f"the read models have not reached {position} within {WAIT_SECONDS:.0f} s"
            raise unavailable(detail, hint="try again; rayfold projections shows how far they are", code="behind")

    async def catch_up(self, streams: Iterable[str] | None = None) -> None:
        """Wait a little for everything that is in the log now: of these streams' partitions, or of all."""
        if streams is None:
            partitions = set(range(self._log.partitions))
        else:
            partitions = {int(partition_of(partition_key(stream), self._log.partitions)) for stream in streams}
        ordered = sorted(partitions)
        tails = await asyncio.gather(*(self._log.tail(partition) for partition in ordered))
        waits = [
            self._watermarks.wait_for(Position(partition, tail - 1), FRESH_SECONDS)
            for partition, tail in zip(ordered, tails, strict=True)
            if tail > 0
        ]
        await asyncio.gather(*waits)

    # --- one thing ----------------------------------------------------------------------------------------------------

    async def team(self, name: str) -> TeamView:
        """An active team. Raises HttpProblem 404."""
        found = await self.ask(queries.get_team, name)
        if found is None:
            await self.catch_up([f"team/{name}"])
            found = await self.ask(queries.get_team, name)
        if found is None or found.status != "active":
            raise not_found(f"there is no team {name}", hint="rayfold teams")
        return found

    async def app(self, call: Call) -> AppView:
        """The call's app, not a destroyed one. Raises HttpProblem 404."""
        team, name = call.name("team"), call.name("app")
        found = await self.ask(queries.get_app, team, name)
        if found is None or found.status == "destroyed":
            raise not_found(f"there is no app {name} in team {team}", hint="rayfold apps")
        return found

    async def component(self, call: Call) -> ComponentView:
        """The call's component, not a destroyed one. Raises HttpProblem 404."""
        team, app, name = call.name("team"), call.name("app"), call.name("component")
        found = await self.ask(queries.get_component, team, app, name)
        if found is None or found.status == "destroyed":
            raise not_found(f"there is no component {name} in app {app} of team {team}", hint="rayfold components")
        return found

    async def build(self, call: Call, build_id: str = "") -> BuildView:
        """The call's build, or another, of the call's component. Raises HttpProblem 404."""
        build_id = build_id or call.name("build")
        found = await self.ask(queries.get_build, call.name("team"), build_id)
        if found is None or (found.app, found.component) != (call.name("app"), call.name("component")):
            raise not_found(f"there is no build {build_id[:80]} of this component", hint="rayfold builds")
        return found

    async def operation(self, principal: Principal, operation: str) -> OperationView:
        """An operation that the principal reaches. Raises HttpProblem 404."""
        found = await self._operation(principal, operation)
        if found is None:
            await self.catch_up()
            found = await self._operation(principal, operation)
        if found is None:
            raise not_found(f"there is no operation {operation[:80]}", hint="rayfold operations")
        return found

    async def _operation(self, principal: Principal, operation: str) -> OperationView | None:
        condition = OPERATIONS.c.id == operation
        if principal.team is not None:
            condition &= OPERATIONS.c.team == principal.team
        found = await asyncio.to_thread(
            self._database.read,
            lambda connection: page(connection, OPERATIONS, OperationView, condition, _OPERATION_ORDER, "", 1),
        )
        return found.items[0] if found.items else None

    async def counts(self, team: str | None) -> tuple[int, int, int]:
        """Apps, components and running operations of a team, or of all (None)."""

        def count(connection: "Connection") -> tuple[int, int, int]:
            apps = APPS.select().where(APPS.c.status != "destroyed")
            components = COMPONENTS.select().where(COMPONENTS.c.status != "destroyed")
            operations = OPERATIONS.select().where(OPERATIONS.c.status == "running")
            found = []
            for table, query in ((APPS, apps), (COMPONENTS, components), (OPERATIONS, operations)):
                query = query.with_only_columns(table.c.version)
                scoped = query if team is None else query.where(table.c.team == team)
                found.append(len(connection.execute(scoped).all()))
            return found[0], found[1], found[2]

        return await asyncio.to_thread(self._database.read, count)

    # --- lists over teams ---------------------------------------------------------------------------------------------

    async def operations(
        self, team: str | None, *, app: str, status: str, cursor: str, limit: int
    ) -> Page[OperationView]:
        """Operations of a team, or of all (None), newest first."""
        condition = OPERATIONS.c.team == team if team is not None else OPERATIONS.c.id != ""
        for column, value in ((OPERATIONS.c.app, app), (OPERATIONS.c.status, status)):
            if value:
                condition &= column == value
        return await asyncio.to_thread(
            self._database.read,
            lambda connection: page(connection, OPERATIONS, OperationView, condition, _OPERATION_ORDER, cursor, limit),
        )

    async def builds(self, team: str | None, *, status: str, cursor: str, limit: int) -> Page[BuildView]:
        """Builds of a team, or of all (None), newest first."""
        condition = BUILDS.c.team == team if team is not None else BUILDS.c.build_id != ""
        if status:
            condition &= BUILDS.c.status == status
        return await asyncio.to_thread(
            self._database.read,
            lambda connection: page(connection, BUILDS, BuildView, condition, _BUILD_ORDER, cursor, limit),
        )
