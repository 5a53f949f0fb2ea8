"""Rules for the log lines of teams and components. Frozen: a later change of a table is a step of its own."""

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Text

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Create the table; it is empty until the first such rule, for there was no event that says one."""
    texts, numbers = ("team", "scope", "rules", "stream"), ("partition_id", "event_offset", "stream_version")
    op.create_table(
        "log_rules",
        *(Column(name, Text, nullable=False) for name in texts),
        *(Column(name, BigInteger, nullable=False) for name in (*numbers, "updated_at")),
        PrimaryKeyConstraint("team", "scope"),
    )
