"""The read model of application templates."""

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Text

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """Create the table."""
    texts = ["team", "name", "label", "digest", "document", "source", "published_by", "stream"]
    numbers = ["published_at", "partition_id", "event_offset", "stream_version", "updated_at"]
    op.create_table(
        "templates",
        *(Column(name, Text, nullable=False) for name in texts),
        *(Column(name, BigInteger, nullable=False) for name in numbers),
        PrimaryKeyConstraint("team", "name", "label"),
    )
    op.create_index("ix_templates_team_published_at", "templates", ["team", "published_at"])


def downgrade() -> None:
    """There is no way back: delete the database instead, the log brings everything back."""
    raise NotImplementedError("read models are rebuilt from the log: delete the database and start again")
