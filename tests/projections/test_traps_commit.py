"""Trap 23 of docs/correctness.md, on a real PostgreSQL: the connection breaks at COMMIT, and nobody hears the answer.

40001 by a real conflict is in test_database.py. A proxy stands before the server's unix socket here.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy

from events.failpoints import arm, disarm
from projections.database import Database
from projections.projector import Projector
from tests.projections.recorder import log_of, tell_everything
from tests.projections.test_projector import Counting

pytestmark = pytest.mark.servers
SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT"


class CommitProxy:
    """Forwards to a PostgreSQL; when told, it breaks the connection of the next COMMIT, before or after it is done."""

    def __init__(self, directory: Path, target: Path) -> None:
        self._path = directory / SOCKET
        self._target = target
        self._breaks: str | None = None
        self.broken = asyncio.Event()

    async def open(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self._path)

    def break_next_commit(self, moment: str) -> None:
        """`before`: the server never sees it. `after`: it is done, and its answer is lost."""
        self._breaks = moment

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        answering = asyncio.create_task(self._answers(upstream_reader, writer))
        while data := await reader.read(65536):
            moment = self._breaks if COMMIT in data else None
            if moment is not None:
                self._breaks = None
                answering.cancel()
                await asyncio.wait((answering,))
                if moment == "after":
                    upstream_writer.write(data)
                    await upstream_reader.read(65536)  # what the client will never hear: that it is committed
                self.broken.set()
                break
            upstream_writer.write(data)
        answering.cancel()
        writer.transport.abort()
        upstream_writer.transport.abort()

    async def _answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)


@pytest.fixture
async def proxied(fresh_postgres: str) -> AsyncIterator[tuple[CommitProxy, str]]:
    """A proxy before an empty database, and the database's URL through it."""
    url = sqlalchemy.make_url(fresh_postgres)
    directory = Path(tempfile.mkdtemp(prefix="rf-pgp-"))  # short: a unix socket lies in it
    proxy = CommitProxy(directory, Path(str(url.query["host"])) / SOCKET)
    server = await proxy.open()
    yield proxy, url.update_query_dict({"host": str(directory)}).render_as_string(hide_password=False)
    server.close()
    shutil.rmtree(directory)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_connection_killed_at_commit_folds_every_event_once(
    proxied: tuple[CommitProxy, str], fresh_postgres: str, moment: str
) -> None:
    """Trap 23. Whether it was committed nobody can tell from the error: the checkpoint, compared and set, decides."""
    proxy, url = proxied
    direct = Database(fresh_postgres)
    await asyncio.to_thread(direct.migrate)
    database = Database(url)
    events = tell_everything()
    counting = Counting()
    projector = Projector(database, await log_of(events, partitions=1), projections=[counting.projection])

    def break_it() -> None:
        disarm("projections.written")
        proxy.break_next_commit(moment)

    arm("projections.written", break_it)
    try:
        await projector.catch_up()
    finally:
        disarm("projections.written")

    assert proxy.broken.is_set()
    assert await asyncio.to_thread(counting.tally, direct) == len(events)
    assert projector.positions() == {0: len(events)}
    await projector.close()
    await asyncio.to_thread(database.close)
    await asyncio.to_thread(direct.close)
