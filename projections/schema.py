"""The columns of every read model, and the tables that no single model owns: checkpoints, parked, component names.

Must not know what any event means. Every column is NOT NULL with a natural blank, so that a row is complete from its
first event on; times are microseconds UTC; nested values are JSON text, which SQLite, PostgreSQL and CockroachDB keep
alike (a JSON column would refuse the NUL that a program may print).
"""

import functools
from typing import cast

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Table, Text

METADATA = MetaData()

SqlValue = str | int | float | bool
Row = dict[str, SqlValue]
"""A complete row by column key."""


def text(name: str, *, key: bool = False) -> Column[str]:
    """A text column, blank ""."""
    return Column(name, Text, primary_key=key, nullable=False, info={"blank": ""})


def number(name: str, *, key: bool = False, as_: str | None = None) -> Column[int]:
    """A 64-bit whole number (also times in microseconds UTC), blank 0. `as_`: the key where `name` is a SQL word."""
    return Column(
        name,
        BigInteger,
        key=as_ or name,
        primary_key=key,
        autoincrement=False,
        nullable=False,
        info={"blank": 0},
    )


def seconds(name: str) -> Column[float]:
    """A duration in seconds, blank 0.0."""
    return Column(name, Double, nullable=False, info={"blank": 0.0})


def flag(name: str) -> Column[bool]:
    """A yes or no, blank no."""
    return Column(name, Boolean, nullable=False, info={"blank": False})


def json_text(name: str, *, blank: str = "[]") -> Column[str]:
    """JSON kept as text; queries decode it into the type of the field of the same name."""
    return Column(name, Text, nullable=False, info={"blank": blank, "json": True})


def model_table(name: str, *columns: Column[str] | Column[int] | Column[float] | Column[bool]) -> Table:
    """A read model's table: its own columns, then where its last event stands.

    `partition` and `offset` are that event's position, `version` its number in `stream`, `updated_at` its time.
    """
    return Table(
        name,
        METADATA,
        *columns,
        text("stream"),
        number("partition_id", as_="partition"),
        number("event_offset", as_="offset"),
        number("stream_version", as_="version"),
        number("updated_at"),
    )


def index(table: Table, *columns: str) -> None:
    """An index on `columns` (by key), named after them."""
    Index(f"ix_{table.name}_{'_'.join(columns)}", *(table.c[c] for c in columns))


@functools.cache
def columns_of(table: Table) -> tuple[str, ...]:
    """The keys of its columns; to walk through a table's own collection of them takes longer than to read a row."""
    return tuple(c.key for c in table.c)


@functools.cache
def key_of(table: Table) -> tuple[str, ...]:
    """The keys of the columns of its primary key."""
    return tuple(c.key for c in table.primary_key.columns)


def blank(table: Table) -> Row:
    """A row of `table` in which every column is blank."""
    return dict(_blank(table))


@functools.cache
def _blank(table: Table) -> Row:
    return {c.key: cast("SqlValue", c.info["blank"]) for c in table.c}


CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    text("projection", key=True),
    number("partition_id", key=True, as_="partition"),
    number("projection_version", as_="version"),
    number("next_offset", as_="next"),
    number("last_at"),
)
"""One row for each projection and partition: the next offset to fold. Moves in the transaction that folds."""

PARKED = Table(
    "parked",
    METADATA,
    text("projection", key=True),
    text("stream", key=True),
    number("partition_id", as_="partition"),
    number("event_offset", as_="offset"),
    text("event_id"),
    text("event_type"),
    text("error"),
    number("attempts"),
    number("behind"),
    number("parked_at"),
)
"""A stream that a projection could not fold, at the event in question, and how many events of it wait behind."""

COMPONENT_NAMES = Table(
    "component_names",
    METADATA,
    text("service_id", key=True),
    text("team"),
    text("app"),
    text("component"),
)
"""What a service_id stands for. An id is a hash of the names, so a row never changes and no rebuild removes it."""
