"""The database of the read models: its engine, its migrations, and transactions that are retried within bounds.

Written for CockroachDB; SQLite and PostgreSQL run it as well. Must not know what the tables mean.
"""

import itertools
import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from projections.errors import AmbiguousCommit, DatabaseUnavailable

T = TypeVar("T")

ATTEMPTS = 8
RETRY_FIRST_S = 0.01
RETRY_MOST_S = 0.5
SQLITE_BUSY_MS = 30_000
SQLITE_WRITER_CACHE_KIB = 32 * 1024
"""Of pages, in a connection that writes: SQLite's own 2 MiB hold too little of the indexes, and it reads them again and
again. At most one writes at a time, so a process has few of them."""
SQLITE_CHECKPOINT_PAGES = 4096
"""Of 4 KiB, in the write-ahead log before they go into the file: one that changed often meanwhile goes there once."""
CONNECT_TIMEOUT_S = 5

_SERIALIZATION = ("40001", "40P01")  # serialization failure, deadlock: the transaction is rolled back, run it again
# unique violation, duplicate table, duplicate object, tuple concurrently updated
_CREATED_MEANWHILE = ("23505", "42P07", "42710", "XX000")
_AMBIGUOUS = ("40003",)  # statement completion unknown: CockroachDB lost sight of its own commit


class Database:
    """An engine over `url`. Safe to use from many threads; SQLite lets one of them write at a time.

    `url`: as SQLAlchemy has it; `sqlite:////path`, `postgresql+psycopg2://…` or `cockroachdb+psycopg2://…`.
    """

    def __init__(self, url: str) -> None:
        self.url = sqlalchemy.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._sqlite() if self.is_sqlite else self._server()

    def _sqlite(self) -> Engine:
        path = Path(self.url.database or "")
        if not self.url.database or self.url.database == ":memory:":
            raise ValueError("expected a SQLite URL with a file, found one in memory; give sqlite:////path/to/file.db")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # The read models hold applications' configuration, secrets included: nobody else's to read.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        engine = create_engine(self.url, connect_args={"timeout": SQLITE_BUSY_MS / 1000})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _server(self) -> Engine:
        arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "rayfold"}
        return create_engine(self.url, pool_pre_ping=True, connect_args=arguments)

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that changes nothing. Raises DatabaseUnavailable."""
        try:
            with self.engine.connect() as connection:
                return work(connection)
        except (OperationalError, PoolTimeout) as error:
            raise DatabaseUnavailable(f"cannot read the read models: {_first_line(error)}") from error

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run the whole of `work` in one serializable transaction and commit it; blocks, so call it in a thread.

        Run again, up to 8 times with jittered pauses, when the database asks for it (SQLSTATE 40001, SQLite busy) or
        the connection broke before the commit. Raises AmbiguousCommit when it broke while committing: whoever keeps a
        checkpoint in the same transaction reads it to decide. Raises DatabaseUnavailable when the attempts are used up,
        and whatever `work` raises.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(work)
            except DBAPIError as error:
                if not _may_retry(error):
                    raise
                if attempt == ATTEMPTS:
                    message = f"gave up after {ATTEMPTS} attempts: {_first_line(error)}"
                    raise DatabaseUnavailable(message) from error
            _pause(attempt)
        raise AssertionError("unreachable")

    def _once(self, work: Callable[[Connection], T]) -> T:
        options = {"writes": True} if self.is_sqlite else {"isolation_level": "SERIALIZABLE"}
        with self.engine.connect().execution_options(**options) as connection:
            transaction = connection.begin()
            try:
                result = work(connection)
            except BaseException:
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if _sqlstate(error) in _AMBIGUOUS or error.connection_invalidated:
                    raise AmbiguousCommit(f"lost while committing: {_first_line(error)}") from error
                raise
            return result

    def _create_lock(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.transact(_insert_lock)
            except DBAPIError as error:
                # PostgreSQL's IF NOT EXISTS does not see a table that is being created just now, and fails on it.
                if _sqlstate(error) not in _CREATED_MEANWHILE or attempt == ATTEMPTS:
                    raise
            _pause(attempt)
        return None

    def migrate(self) -> None:
        """Bring the schema to the newest version. Two starters may both call it: the second waits and finds it done."""
        if self.is_sqlite:
            with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                _upgrade(connection)
            return
        self._create_lock()
        # A locked row and not an advisory lock: CockroachDB accepts those and locks nothing. The lock has a connection
        # of its own, because CockroachDB wants schema changes outside of long transactions.
        with self.engine.begin() as lock, self.engine.connect() as connection:
            lock.exec_driver_sql("SELECT id FROM migration_lock WHERE id = 1 FOR UPDATE")
            _upgrade(connection)
            connection.commit()


def _insert_lock(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS migration_lock (id BIGINT PRIMARY KEY)")
    connection.exec_driver_sql("INSERT INTO migration_lock (id) VALUES (1) ON CONFLICT DO NOTHING")


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1.0) * min(RETRY_MOST_S, RETRY_FIRST_S * 2**attempt))  # noqa: S311


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # None: the driver opens no transaction of its own accord, so that `_begin_sqlite` can choose which kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_MS}")
    _write_ahead(cursor)
    # After a power cut the last commits may be missing, checkpoint included: they are folded again from the log.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {SQLITE_CHECKPOINT_PAGES}")
    cursor.close()


def _write_ahead(cursor: DBAPICursor) -> None:
    """Switch to a write-ahead log. Of several that open a new file at once one switches it; SQLite refuses the others
    at once, whatever its busy_timeout says."""
    until = time.monotonic() + SQLITE_BUSY_MS / 1000
    for attempt in itertools.count(1):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        else:
            return
        _pause(attempt)


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql(f"PRAGMA cache_size = -{SQLITE_WRITER_CACHE_KIB}")
        # A transaction that reads first and writes later could not wait for the lock, it would fail at once.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql("BEGIN")


def _sqlstate(error: DBAPIError) -> str:
    return str(getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlstate", None) or "")


def _may_retry(error: DBAPIError) -> bool:
    busy = "database is locked" in str(error.orig) or "database table is locked" in str(error.orig)
    broken = error.connection_invalidated or (isinstance(error, OperationalError) and not _sqlstate(error))
    return _sqlstate(error) in _SERIALIZATION or busy or broken


def _first_line(error: DBAPIError | PoolTimeout) -> str:
    text = error.orig if isinstance(error, DBAPIError) else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]
