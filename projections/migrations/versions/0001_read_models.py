"""The read models' first schema. Frozen: a later change of a table is a step of its own."""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, PrimaryKeyConstraint, Text

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Create every table."""
    _upgrade_shared()
    _upgrade_models()
    _upgrade_component_models()


def _table(
    name: str,
    *,
    key: Sequence[str],
    texts: str = "",
    numbers: str = "",
    flags: str = "",
    doubles: str = "",
    indexes: Sequence[str] = (),
) -> None:
    """A table of NOT NULL columns, by type; each of `indexes` names its columns."""
    op.create_table(
        name,
        *(Column(c, Text, nullable=False) for c in texts.split()),
        *(Column(c, BigInteger, nullable=False) for c in numbers.split()),
        *(Column(c, Boolean, nullable=False) for c in flags.split()),
        *(Column(c, Double, nullable=False) for c in doubles.split()),
        PrimaryKeyConstraint(*key),
    )
    for columns in indexes:
        op.create_index(f"ix_{name}_{columns.replace(' ', '_')}", name, columns.split())


def _upgrade_shared() -> None:
    _table(
        "checkpoints",
        key=(
            "projection",
            "partition_id",
        ),
        texts="projection",
        numbers="partition_id projection_version next_offset last_at",
    )
    _table(
        "parked",
        key=(
            "projection",
            "stream",
        ),
        texts="projection stream event_id event_type error",
        numbers="partition_id event_offset attempts behind parked_at",
    )
    _table(
        "component_names",
        key=("service_id",),
        texts="service_id team app component",
    )


def _upgrade_models() -> None:
    _table(
        "teams",
        key=("name",),
        texts="name status created_by stream",
        numbers="created_at partition_id event_offset stream_version updated_at",
    )
    _table(
        "tokens",
        key=(
            "team",
            "name",
        ),
        texts="team name sha256 stream",
        numbers="issued_at partition_id event_offset stream_version updated_at",
        indexes=("sha256",),
    )
    _table(
        "apps",
        key=(
            "team",
            "name",
        ),
        texts="team name status components operation created_by stream",
        numbers="created_at partition_id event_offset stream_version updated_at",
    )
    _table(
        "nodes",
        key=("name",),
        texts="name status address runtime reason stream",
        numbers="cpus memory_bytes joined_at partition_id event_offset stream_version updated_at",
    )
    _table(
        "route_claims",
        key=(
            "host",
            "path",
        ),
        texts="host path service_id team app stream",
        numbers="claimed_at partition_id event_offset stream_version updated_at",
    )
    _table(
        "builds",
        key=("build_id",),
        texts="build_id service_id team app component operation source status builder code reason lines artifact "
        "requested_by stream",
        numbers="timeout_seconds attempt requested_at started_at ended_at partition_id event_offset stream_version "
        "updated_at",
        flags="cancel_requested cache_hit",
        doubles="seconds",
        indexes=(
            "service_id requested_at",
            "team requested_at",
        ),
    )


def _upgrade_component_models() -> None:
    _table(
        "components",
        key=("service_id",),
        texts="service_id team app name process status spec hosts incoming_spec operation operation_kind "
        "operation_phase build_id cancel_reason endpoints created_by stream",
        numbers="scale current born_after last_release routing_release routing_version applied_version created_at "
        "partition_id event_offset stream_version updated_at",
        flags="stopped http",
        indexes=("team app name",),
    )
    _table(
        "releases",
        key=(
            "service_id",
            "number",
        ),
        texts="service_id team app component operation status digest commit_id detected language command created_by "
        "reason failure release stream",
        numbers="number rollback_of created_at ended_at partition_id event_offset stream_version updated_at",
        indexes=("service_id status",),
    )
    _table(
        "rollouts",
        key=(
            "service_id",
            "release",
        ),
        texts="service_id team app component operation phase status reason stream",
        numbers="release deadline_at created_at started_at switched_at ended_at partition_id event_offset "
        "stream_version updated_at",
        indexes=("team created_at",),
    )
    _table(
        "instances",
        key=("id",),
        texts="id service_id team app component kind node command task status host reason lines stream",
        numbers="ordinal slot release port pid exit_code signal restart_at starting_at started_at ready_at ended_at "
        "partition_id event_offset stream_version updated_at",
        flags="alive draining",
        indexes=(
            "node alive",
            "service_id alive ordinal",
            "team starting_at",
        ),
    )
    _table(
        "routes",
        key=(
            "service_id",
            "host",
            "path",
        ),
        texts="service_id host path team app component stream",
        numbers="release ready_endpoints draining_endpoints routing_version created_at partition_id event_offset "
        "stream_version updated_at",
        flags="applied",
        indexes=("team host path",),
    )
    _table(
        "operations",
        key=(
            "id",
            "on_stream",
        ),
        texts="id on_stream kind detail status phase steps code reason lines result parent siblings team app "
        "component service_id build_id instance cancel_reason actor message stream",
        numbers="still_serving release rollback_of started_at deadline_at ended_at partition_id event_offset "
        "stream_version updated_at",
        indexes=(
            "on_stream status",
            "service_id started_at",
            "team parent",
            "team started_at",
        ),
    )


def downgrade() -> None:
    """There is no way back: delete the database instead, the log brings everything back."""
    raise NotImplementedError("read models are rebuilt from the log: delete the database and start again")
