"""Which artifacts something still refers to: what may be removed from disk is what is not here.

Must not know disks. An answer that might leave something out is refused instead of given.
"""

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, func, select

from events.model.build import LIVE, Artifact, BuildStatus, Source
from events.model.operation import OperationStatus
from events.model.template_parts import Document
from projections.builds import BUILDS
from projections.database import Database
from projections.errors import ProjectionsError
from projections.operations import OPERATIONS
from projections.releases import RELEASES, ReleaseStatus
from projections.schema import CHECKPOINTS, PARKED
from projections.templates import TEMPLATES

_MODELS = ("builds", "operations", "releases", "templates")


class References(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of artifacts, and when the oldest build that runs or waits was begun or asked for: unix microseconds, 0
    when there is none. Whatever such a build stored or reused is younger.

    `uploads`: digests of the sources of such builds, and `images` those they take. `building`: their components, id →
    TEAM/APP/COMPONENT. `services`: ids of all components that have something. `oldest_operation_at`: when the oldest
    operation that goes on began.
    """

    artifacts: frozenset[str]
    oldest_build_at: int
    uploads: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    building: dict[str, str] = {}
    services: frozenset[str] = frozenset()
    oldest_operation_at: int = 0


class NotCertain(ProjectionsError):
    """The read models do not know all of the log that they must; says what is missing. Ask again later."""


def references(database: Database, tails: Mapping[int, int]) -> References:
    """Everything that releases, builds on their way to one, and templates refer to, the log up to `tails` included
    ({partition: the offset its next event will get}). Blocking. Raises NotCertain, DatabaseUnavailable."""
    # One serializable transaction: a read model that is emptied meanwhile to be folded anew is seen before or after.
    return database.transact(lambda connection: _references(connection, tails))


def _references(connection: Connection, tails: Mapping[int, int]) -> References:
    _check(connection, tails)
    kept = select(RELEASES.c.digest).where(RELEASES.c.status != ReleaseStatus.PRUNED.value).distinct()
    digests = {str(digest) for digest in connection.execute(kept).scalars()}
    # Built, and not yet a release: its operation goes on until it is one.
    running = select(OPERATIONS.c.id).where(OPERATIONS.c.status == OperationStatus.RUNNING.value)
    made = select(BUILDS.c.artifact).where(
        BUILDS.c.status == BuildStatus.SUCCEEDED.value, BUILDS.c.operation.in_(running)
    )
    for text in connection.execute(made).scalars():
        digests.add(msgspec.json.decode(str(text), type=Artifact).digest)
    # A template is there to be installed again, also when the app it was taken from is gone.
    for text in connection.execute(select(TEMPLATES.c.document)).scalars():
        digests |= {each.artifact.digest for each in msgspec.json.decode(str(text), type=Document).components}
    live = connection.execute(select(BUILDS).where(BUILDS.c.status.in_([s.value for s in LIVE]))).all()
    sources = [source for row in live if (source := msgspec.json.decode(str(row.source), type=Source | None))]
    on = OPERATIONS.c.status == OperationStatus.RUNNING.value
    kept_by = select(RELEASES.c.service_id).where(RELEASES.c.status != ReleaseStatus.PRUNED.value).distinct()
    worked_on = select(OPERATIONS.c.service_id).where(on).distinct()
    services = {str(service) for query in (kept_by, worked_on) for service in connection.execute(query).scalars()}
    return References(
        artifacts=frozenset(digests - {""}),
        oldest_build_at=min((int(row.started_at or row.requested_at) for row in live), default=0),
        uploads=frozenset(each.digest for each in sources if each.digest),
        images=frozenset(each.url for each in sources if each.kind == "image"),
        building={str(row.service_id): f"{row.team}/{row.app}/{row.component}" for row in live},
        services=frozenset(services | {str(row.service_id) for row in live}),
        oldest_operation_at=int(connection.execute(select(func.min(OPERATIONS.c.started_at)).where(on)).scalar() or 0),
    )


def _check(connection: Connection, tails: Mapping[int, int]) -> None:
    parked = select(PARKED.c.stream).where(PARKED.c.projection.in_(_MODELS)).limit(1)
    stream = connection.execute(parked).scalars().first()
    if stream is not None:
        raise NotCertain(f"the read models could not fold {stream}: rayfold projections names the event")
    query = select(CHECKPOINTS.c.projection, CHECKPOINTS.c.partition, CHECKPOINTS.c.next)
    reached = {(row.projection, row.partition): row.next for row in connection.execute(query)}
    for partition, tail in tails.items():
        for model in _MODELS:
            found = reached.get((model, partition), 0)
            if found < tail:
                raise NotCertain(f"the read model {model} is at {found} of {tail} in partition {partition}")
