"""The read model of cron jobs and their runs."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, PrimaryKeyConstraint, Text

revision = "0003"
down_revision: str | None = "0002"

_PLACE = "partition_id event_offset stream_version updated_at"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "crons",
        *_texts("service_id name team app component schedule zone command policy last_skip stream"),
        *_numbers(f"late_seconds run_seconds history next_at last_tick missed skipped created_at {_PLACE}"),
        Column("suspended", Boolean, nullable=False),
        PrimaryKeyConstraint("service_id", "name"),
    )
    op.create_index("ix_crons_team_app_component_name", "crons", ["team", "app", "component", "name"])
    op.create_table(
        "cron_runs",
        *_texts("service_id operation cron team app component status reason stream"),
        *_numbers(f"tick began_at ended_at {_PLACE}"),
        PrimaryKeyConstraint("service_id", "operation"),
    )
    op.create_index("ix_cron_runs_service_id_cron_began_at", "cron_runs", ["service_id", "cron", "began_at"])
    op.create_index("ix_cron_runs_team_app_component_began_at", "cron_runs", ["team", "app", "component", "began_at"])


def _texts(names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names.split()]


def _numbers(names: str) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in names.split()]


def downgrade() -> None:
    """There is no way back: delete the database instead, the log brings everything back."""
    raise NotImplementedError("read models are rebuilt from the log: delete the database and start again")
