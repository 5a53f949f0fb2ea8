"""The embedded etcd: adopted rather than doubled, restarted when it dies, closed to strangers."""

import asyncio
import datetime
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from events.log.embedded import EmbeddedEtcd, etcd_version, find_etcd
from events.log.errors import LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.pki import ensure_pki
from tests.scheduling import policies


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    etcd = EmbeddedEtcd(tmp_path)
    try:
        yield etcd
    finally:
        await etcd.stop()


@pytest.mark.servers
async def test_a_second_starter_adopts_the_first_ones_etcd(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    first, second = await asyncio.gather(etcd.ensure(), EmbeddedEtcd(tmp_path).ensure())
    assert first == second
    assert etcd.pid is not None
    later = EmbeddedEtcd(tmp_path)
    assert await later.ensure() == first
    assert later.pid == etcd.pid
    assert os.getsid(etcd.pid) == etcd.pid, "it has a session of its own and outlives its starter"
    assert policies(etcd.pid) == {os.SCHED_BATCH}, "it takes no core from who is using it"
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "its starter, who is not asked to, does as before"


@pytest.mark.servers
async def test_an_etcd_whose_starter_died_before_recording_it_is_found(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    settings = await etcd.ensure()
    pid = etcd.pid
    (tmp_path / "etcd" / "pid.json").unlink()
    assert await EmbeddedEtcd(tmp_path).ensure() == settings
    assert etcd.pid == pid


@pytest.mark.servers
async def test_data_and_ports_survive_kill_and_restart(etcd: EmbeddedEtcd) -> None:
    settings = await etcd.ensure()
    async with EtcdClient(settings) as client:
        await client.put("/kept", b"1")
    watching = asyncio.create_task(etcd.watch_over())
    victim = etcd.pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(30):
        while etcd.pid in (None, victim):
            await asyncio.sleep(0.05)
    watching.cancel()
    assert await etcd.ensure() == settings
    async with EtcdClient(settings) as client:
        kept = await client.get("/kept")
    assert kept is not None and kept.value == b"1"


@pytest.mark.servers
async def test_stop_ends_it(etcd: EmbeddedEtcd) -> None:
    await etcd.ensure()
    pid = etcd.pid
    assert pid is not None
    await etcd.stop()
    assert etcd.pid is None
    assert not psutil.pid_exists(pid)
    await etcd.stop()


@pytest.mark.servers
async def test_strangers_are_refused(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    settings = await etcd.ensure()
    stranger = ensure_pki(tmp_path / "other-pki")
    without = msgspec.structs.replace(settings, cert_path=None, key_path=None)
    forged = msgspec.structs.replace(settings, cert_path=str(stranger.client_cert), key_path=str(stranger.client_key))
    plain = msgspec.structs.replace(settings, ca_path=None)
    impostor = msgspec.structs.replace(settings, ca_path=str(stranger.ca_cert))

    async def is_refused(wrong: EtcdSettings) -> None:
        client = EtcdClient(wrong)
        with pytest.raises(LogUnavailable):
            await client.open()
        await client.close()

    await asyncio.gather(*(is_refused(wrong) for wrong in (without, forged, plain, impostor)))


@pytest.mark.servers
async def test_only_its_owner_can_read_its_files(etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    await etcd.ensure()
    for directory in ("pki", "etcd", "etcd/data", "platform"):
        assert stat.S_IMODE((tmp_path / directory).stat().st_mode) == 0o700
    for file in (tmp_path / "pki").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_certificates_are_kept_until_they_are_about_to_expire(tmp_path: Path) -> None:
    made = ensure_pki(tmp_path / "pki")
    before = {path: path.read_bytes() for path in (tmp_path / "pki").iterdir()}
    ensure_pki(tmp_path / "pki")
    assert {path: path.read_bytes() for path in (tmp_path / "pki").iterdir()} == before
    next_year = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=350)
    ensure_pki(tmp_path / "pki", now=next_year)
    assert made.ca_cert.read_bytes() == before[made.ca_cert]
    assert made.server_cert.read_bytes() != before[made.server_cert]


def test_a_torn_or_foreign_pair_is_made_anew(tmp_path: Path) -> None:
    made = ensure_pki(tmp_path / "pki")
    other = ensure_pki(tmp_path / "other")
    made.server_key.write_bytes(other.server_key.read_bytes())
    made.client_cert.write_bytes(b"half a cert")
    ca = made.ca_cert.read_bytes()
    ensure_pki(tmp_path / "pki")
    assert made.ca_cert.read_bytes() == ca
    assert made.server_key.read_bytes() != other.server_key.read_bytes()
    assert made.client_cert.read_bytes().startswith(b"-----BEGIN")


def test_the_etcd_found_is_new_enough() -> None:
    assert etcd_version(find_etcd()) >= (3, 4)
    assert etcd_version("/nonexistent") == ()
