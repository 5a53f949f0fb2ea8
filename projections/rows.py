"""The rows that one transaction touches: read once, changed in memory, written in bulk when the batch is folded.

Must not know what a row is about. Each row is addressed by its table and primary key.
"""

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Delete, Insert, Select, Table, bindparam, select
from sqlalchemy import Row as SqlRow
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from events.log.records import StoredEvent
from projections.errors import WriteFailed
from projections.schema import Row, SqlValue, blank, columns_of, key_of

Key = tuple[SqlValue, ...]

LOADED_AT_ONCE = 500  # values in one statement: SQLite took no more than 999 for long


class Rows:
    """A unit of work over one connection's open transaction. Whoever holds it calls `flush` before the commit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[Table, dict[Key, Row | None]] = {}
        self._dirty: dict[Table, set[Key]] = {}
        self._groups: set[tuple[Table, tuple[tuple[str, SqlValue], ...]]] = set()

    def get(self, table: Table, *key: SqlValue) -> Row | None:
        """The row with this primary key, as changed so far; None if there is none."""
        known = self._known.setdefault(table, {})
        if key not in known and self._has_all_of(table, key):
            known[key] = None
        if key not in known:
            columns = key_of(table)
            given = dict(zip(map(_parameter, columns), key, strict=True))
            found = self._connection.execute(_rows_where(table, columns), given).one_or_none()
            known[key] = None if found is None else _row(table, found)
        return known[key]

    def load(self, table: Table, values: Sequence[SqlValue]) -> None:
        """Read every row whose first primary key column is one of `values`, at once: `get` and `select` by it then find
        them, and those that are not there, in memory. For what a batch is known to ask for; before anything is put."""
        column = key_of(table)[0]
        known = self._known.setdefault(table, {})
        for start in range(0, len(values), LOADED_AT_ONCE):
            some = list(values[start : start + LOADED_AT_ONCE])
            for found in self._connection.execute(_rows_of(table), {"values": some}):
                row = _row(table, found)
                known.setdefault(_key(table, row), row)
            self._groups.update((table, ((column, value),)) for value in some)

    def _has_all_of(self, table: Table, key: Key) -> bool:
        return (table, ((key_of(table)[0], key[0]),)) in self._groups

    def put(self, table: Table, row: Row) -> None:
        """Keep `row`, whole, in place of whatever has its key."""
        key = _key(table, row)
        self._known.setdefault(table, {})[key] = row
        self._dirty.setdefault(table, set()).add(key)

    def new(self, table: Table, stored: StoredEvent, **values: SqlValue) -> Row:
        """Keep a new row: blank but for `values` and the event's place."""
        row = {**blank(table), **_place(stored), **values}
        self.put(table, row)
        return row

    def change(self, table: Table, key: Key, stored: StoredEvent, **values: SqlValue) -> Row | None:
        """Change a row that exists, and its place; None when there is none (an earlier life was pruned)."""
        row = self.get(table, *key)
        if row is None:
            return None
        row = {**row, **_place(stored), **values}
        self.put(table, row)
        return row

    def delete(self, table: Table, *key: SqlValue) -> None:
        """Remove the row with this primary key, if there is one."""
        self._known.setdefault(table, {})[key] = None
        self._dirty.setdefault(table, set()).add(key)

    def select(self, table: Table, **equal: SqlValue) -> list[Row]:
        """The rows whose columns equal these values, as changed so far, by primary key."""
        known = self._known.setdefault(table, {})
        group = (table, tuple(equal.items()))
        column = key_of(table)[0]
        loaded = column in equal and self._has_all_of(table, (equal[column],))
        if group not in self._groups and not loaded:
            self._flush_table(table)
            given = {_parameter(name): value for name, value in equal.items()}
            for found in self._connection.execute(_rows_where(table, tuple(equal)), given):
                row = _row(table, found)
                known.setdefault(_key(table, row), row)
            # From now on memory has them all: a row that is not here was no part of the group, and nobody else writes.
            self._groups.add(group)
        return [
            row
            for _, row in sorted(known.items())
            if row is not None and all(row[name] == value for name, value in equal.items())
        ]

    def flush(self) -> None:
        """Write every change. Raises WriteFailed, and what the driver raises when the database is in trouble."""
        for table in list(self._dirty):
            self._flush_table(table)

    def _flush_table(self, table: Table) -> None:
        dirty = self._dirty.pop(table, set())
        if not dirty:
            return
        known = self._known[table]
        # Sorted, so that two transactions take the same locks in the same order.
        kept = [(key, known[key]) for key in sorted(dirty)]
        gone = [_key_parameters(table, key) for key, row in kept if row is None]
        rows = [_storable(row) for _, row in kept if row is not None]
        if gone:
            condition = (c == bindparam(_parameter(c.key)) for c in table.primary_key.columns)
            self._write(table.name, table.delete().where(*condition), gone)
        if rows:
            self._write(table.name, upsert(table, self._connection.dialect.name), rows)

    def _write(self, table: str, statement: Insert | Delete, rows: list[Row]) -> None:
        try:
            self._connection.execute(statement, rows)
        except (OverflowError, ValueError) as error:  # the driver could not even send them
            raise WriteFailed(f"{table}: {error}") from error
        except DBAPIError as error:
            if _refuses_values(error):
                raise WriteFailed(f"{table}: {error.orig}") from error
            raise


@functools.cache
def _rows_where(table: Table, columns: tuple[str, ...]) -> Select[Any]:
    # Made once: to put a statement together, and to find how it was compiled, takes four times as long as to run it.
    return select(table).where(*(table.c[name] == bindparam(_parameter(name)) for name in columns))


@functools.cache
def _rows_of(table: Table) -> Select[Any]:
    column = next(iter(table.primary_key.columns))
    return select(table).where(column.in_(bindparam("values", expanding=True)))


def _parameter(column: str) -> str:
    return f"key_{column}"


@functools.cache
def upsert(table: Table, dialect: str) -> Insert:
    """INSERT … ON CONFLICT (primary key) DO UPDATE every other column; DO NOTHING where there is no other."""
    # CockroachDB speaks PostgreSQL's upsert, and its dialect compiles PostgreSQL's constructs.
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    key = list(table.primary_key.columns)
    others = {c.key: insert.excluded[c.key] for c in table.c if not c.primary_key}
    if not others:
        return insert.on_conflict_do_nothing(index_elements=key)
    return insert.on_conflict_do_update(index_elements=key, set_=others)


def _refuses_values(error: DBAPIError) -> bool:
    state = str(getattr(error.orig, "pgcode", None) or "")
    if state:
        return state[:2] in ("22", "23", "54")  # data exception, constraint violation, limit exceeded
    return isinstance(error, DataError | IntegrityError)


def _row(table: Table, found: SqlRow[Any]) -> Row:
    # By place: a result names its columns as SQL does, and has them in the order of the table.
    return dict(zip(columns_of(table), found, strict=True))


def _key(table: Table, row: Row) -> Key:
    return tuple([row[name] for name in key_of(table)])


def _key_parameters(table: Table, key: Key) -> Row:
    return {_parameter(c.key): v for c, v in zip(table.primary_key.columns, key, strict=True)}


def _place(stored: StoredEvent) -> Row:
    return {
        "stream": stored.record.stream,
        "partition": stored.position.partition,
        "offset": stored.position.offset,
        "version": stored.record.version,
        "updated_at": stored.record.at,
    }


def _storable(row: Row) -> Row:
    # PostgreSQL's text holds no NUL, and a crashed program's last words may.
    return {k: v.replace("\0", "\ufffd") if isinstance(v, str) and "\0" in v else v for k, v in row.items()}
