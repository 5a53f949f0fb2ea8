"""The database is migrated once, keeps its rows to itself, and runs a transaction again when it is asked to."""

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text, update

from projections import catalogue
from projections import database as database_module
from projections.database import Database
from projections.errors import DatabaseUnavailable
from projections.schema import CHECKPOINTS, METADATA


def test_migrations_make_what_the_models_declare(database: Database) -> None:
    assert catalogue.ALL
    with database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), METADATA)
    assert [d for d in found if getattr(d[1], "name", "") != "migration_lock"] == []


def test_several_starters_migrate_once(empty_url: str) -> None:
    starters = [Database(empty_url) for _ in range(5)]
    errors: list[BaseException] = []

    def start(database: Database) -> None:
        try:
            database.migrate()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(d,)) for d in starters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    with starters[0].engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["0004"]
    for database in starters:
        database.close()


def test_a_starter_that_finds_the_file_locked_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An open write in a file without a write-ahead log, as another starter has it for a moment.
    other = sqlite3.connect(tmp_path / "rayfold.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused: list[int] = []

    def pause(attempt: int) -> None:
        refused.append(attempt)
        if len(refused) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr(database_module, "_pause", pause)
    database = Database(f"sqlite:///{tmp_path / 'rayfold.db'}")
    database.migrate()
    assert refused == [1, 2, 3]
    database.close()
    other.close()


def test_a_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "sql" / "rayfold.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    database.close()


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a SQLite URL with a file"):
        Database("sqlite://")


def _checkpoint(connection: Connection, projection: str) -> None:
    values = {"projection": projection, "partition": 0, "version": 1, "next": 0, "last_at": 0}
    connection.execute(sqlalchemy.insert(CHECKPOINTS).values(**values))


def _next(connection: Connection, projection: str) -> int:
    return int(
        connection.execute(select(CHECKPOINTS.c.next).where(CHECKPOINTS.c.projection == projection)).scalar_one()
    )


@pytest.mark.servers
def test_a_serialization_conflict_runs_the_whole_function_again(fresh_postgres: str) -> None:
    database = Database(fresh_postgres)
    database.migrate()
    database.transact(lambda c: _checkpoint(c, "x"))
    tries: list[int] = []

    def interfered(connection: Connection) -> None:
        """Reads x and writes it back one higher; the first time somebody else does so in between."""
        seen = _next(connection, "x")
        tries.append(seen)
        if len(tries) == 1:
            database.transact(
                lambda c: c.execute(update(CHECKPOINTS).where(CHECKPOINTS.c.projection == "x").values(next=5))
            )
        connection.execute(update(CHECKPOINTS).where(CHECKPOINTS.c.projection == "x").values(next=seen + 1))

    database.transact(interfered)
    assert tries == [0, 5], "tried again, and saw the other's write"
    assert database.read(lambda c: _next(c, "x")) == 6
    database.close()


@pytest.mark.servers
def test_a_conflict_that_never_ends_is_given_up(fresh_postgres: str) -> None:
    database = Database(fresh_postgres)
    database.migrate()
    tries = []

    def conflicting(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"))

    with pytest.raises(DatabaseUnavailable, match="gave up after 8 attempts"):
        database.transact(conflicting)
    assert len(tries) == 8
    database.close()


@pytest.mark.servers
def test_a_connection_that_breaks_before_the_commit_is_replaced(fresh_postgres: str) -> None:
    database = Database(fresh_postgres)
    database.migrate()
    tries = []

    def broken(connection: Connection) -> None:
        tries.append(1)
        _checkpoint(connection, "x")
        if len(tries) == 1:
            victim = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with database.engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": victim})
            connection.execute(text("SELECT 1"))

    database.transact(broken)
    assert len(tries) == 2
    assert database.read(lambda c: _next(c, "x")) == 0
    database.close()


def test_a_server_that_is_not_there_is_said() -> None:
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable, match="cannot read the read models"):
        database.read(lambda c: c.execute(text("SELECT 1")))
    database.close()


def test_one_sqlite_writer_waits_for_another(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'busy.db'}")
    database.migrate()
    database.transact(lambda c: _checkpoint(c, "x"))

    def increase() -> None:
        for _ in range(20):
            database.transact(
                lambda c: c.execute(
                    update(CHECKPOINTS).where(CHECKPOINTS.c.projection == "x").values(next=_next(c, "x") + 1)
                )
            )

    threads = [threading.Thread(target=increase) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert database.read(lambda c: _next(c, "x")) == 80
    database.close()
