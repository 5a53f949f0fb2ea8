"""The rows that one transaction touches: read once, changed in memory, written in bulk when the batch is folded.

Must not know what a row is about. Each row is addressed by its table and primary key.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Insert, Select, Table, Text, bindparam, select
from sqlalchemy import Row as SqlRow
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from events.log.records import StoredEvent
from projections.errors import WriteFailed
from projections.kept import KeptRows
from projections.schema import Row, SqlValue, blank, columns_of, key_of

Key = tuple[SqlValue, ...]

LOADED_AT_ONCE = 500  # values in one statement: SQLite took no more than 999 for long


class Rows:
    """A unit of work over one connection's open transaction. Whoever holds it calls `flush` before the commit, and
    `leave` after it.

    `kept`: rows of earlier transactions, which need not be read.
    """

    def __init__(self, connection: Connection, kept: KeptRows | None = None) -> None:
        self._connection = connection
        self._kept = KeptRows() if kept is None else kept
        self._loaded: defaultdict[Table, set[SqlValue]] = defaultdict(set)
        self._known: defaultdict[Table, dict[Key, Row | None]] = defaultdict(dict)
        self._dirty: defaultdict[Table, set[Key]] = defaultdict(set)
        self._groups: set[tuple[Table, tuple[tuple[str, SqlValue], ...]]] = set()

    def get(self, table: Table, *key: SqlValue) -> Row | None:
        """The row with this primary key, as changed so far; None if there is none."""
        known = self._known[table]
        if key not in known:
            known[key] = None if key[0] in self._loaded[table] else self._read(table, key)
        return known[key]

    def _read(self, table: Table, key: Key) -> Row | None:
        columns = key_of(table)
        given = dict(zip(map(_parameter, columns), key, strict=True))
        found = self._connection.execute(_rows_where(table, columns), given).one_or_none()
        return None if found is None else _row(table, found)

    def load(self, table: Table, values: Sequence[SqlValue]) -> None:
        """Read every row whose first primary key column is one of `values`, at once: `get` and `select` by it then find
        them, and those that are not there, in memory. For what a batch is known to ask for; before anything is put."""
        known = self._known[table]
        self._loaded[table].update(values)
        unknown: list[SqlValue] = []
        for value in values:
            kept = self._kept.take(table, value)
            if kept is None:
                unknown.append(value)
            else:
                known.update((_key(table, row), row) for row in kept)
        for start in range(0, len(unknown), LOADED_AT_ONCE):
            some = unknown[start : start + LOADED_AT_ONCE]
            for found in self._connection.execute(_rows_of(table), {"values": some}).all():
                row = _row(table, found)
                known[_key(table, row)] = row

    def put(self, table: Table, row: Row) -> None:
        """Keep `row`, whole, in place of whatever has its key."""
        self._set(table, _key(table, row), row)

    def new(self, table: Table, stored: StoredEvent, **values: SqlValue) -> Row:
        """Keep a new row: blank but for `values` and the event's place."""
        row = blank(table)
        _set_place(row, stored)
        row.update(values)
        self.put(table, row)
        return row

    def change(self, table: Table, key: Key, stored: StoredEvent, **values: SqlValue) -> Row | None:
        """Change a row that exists, and its place; None when there is none (an earlier life was pruned)."""
        row = self.get(table, *key)
        if row is None:
            return None
        row = row.copy()
        _set_place(row, stored)
        row.update(values)
        self._set(table, key, row)
        return row

    def delete(self, table: Table, *key: SqlValue) -> None:
        """Remove the row with this primary key, if there is one."""
        self._set(table, key, None)

    def _set(self, table: Table, key: Key, row: Row | None) -> None:
        self._known[table][key] = row
        self._dirty[table].add(key)

    def select(self, table: Table, **equal: SqlValue) -> list[Row]:
        """The rows whose columns equal these values, as changed so far, by primary key."""
        known = self._known[table]
        group = (table, tuple(equal.items()))
        loaded = equal.get(key_of(table)[0]) in self._loaded[table]
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

    def leave(self) -> None:
        """After the commit: keep what was loaded, as it is now, for the transactions to come."""
        for table, loaded in self._loaded.items():
            groups: dict[SqlValue, list[Row]] = {value: [] for value in loaded}
            for key, row in self._known[table].items():
                if row is not None and key[0] in groups:
                    groups[key[0]].append(row)
            for value, rows in groups.items():
                self._kept.leave(table, value, rows)

    def _flush_table(self, table: Table) -> None:
        dirty = self._dirty.pop(table, set())
        if not dirty:
            return
        known = self._known[table]
        # Sorted, so that two transactions take the same locks in the same order.
        kept = [(key, known[key]) for key in sorted(dirty)]
        gone = [_key_parameters(table, key) for key, row in kept if row is None]
        rows = [row for _, row in kept if row is not None]
        if gone:
            condition = (c == bindparam(_parameter(c.key)) for c in table.primary_key.columns)
            self._write(table.name, lambda: self._connection.execute(table.delete().where(*condition), gone))
        if rows:
            self._write(table.name, lambda: self._upsert(table, rows))

    def _upsert(self, table: Table, rows: list[Row]) -> None:
        storable = _storable(table, rows)
        if self._connection.dialect.name == "sqlite":
            # What a row holds is what the driver binds: SQLAlchemy's way through each value takes longer than SQLite's.
            statement, values = _upsert_of_sqlite(table)
            self._connection.exec_driver_sql(statement, [values(row) for row in storable])
        else:
            self._connection.execute(upsert(table, self._connection.dialect.name), list(storable))

    def _write(self, table: str, write: Callable[[], object]) -> None:
        try:
            write()
        except (OverflowError, TypeError, ValueError) as error:  # the driver could not even send them
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


@functools.cache
def _upsert_of_sqlite(table: Table) -> tuple[str, Callable[[Row], tuple[SqlValue, ...]]]:
    """`upsert` as SQLite's driver takes it, and what puts a row's values in their places."""
    compiled = upsert(table, "sqlite").compile(dialect=sqlite.dialect(), column_keys=list(columns_of(table)))
    return str(compiled), itemgetter(*(compiled.positiontup or ()))


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


def _set_place(row: Row, stored: StoredEvent) -> None:
    position, _, record = stored
    row["stream"] = record.stream
    row["partition"], row["offset"] = position
    row["version"] = record.version
    row["updated_at"] = record.at


def _storable(table: Table, rows: Sequence[Row]) -> Iterator[Row]:
    # PostgreSQL's text holds no NUL, and a crashed program's last words may.
    texts = _texts(table)
    for row in rows:
        if "\0" in "".join(texts(row)):
            row = {k: v.replace("\0", "\ufffd") if isinstance(v, str) else v for k, v in row.items()}
        yield row


@functools.cache
def _texts(table: Table) -> Callable[[Row], tuple[str, ...]]:
    return itemgetter(*(c.key for c in table.c if isinstance(c.type, Text)))
