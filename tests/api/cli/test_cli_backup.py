"""`rayfold backup` and `rayfold log verify` on a data directory whose platform does not run."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.cluster.settings import MASTER_KEY_FILE
from api.cli.main import main
from api.log_access import open_log
from events.log.blobs import ArchiveSettings, open_blobs
from events.log.embedded import EmbeddedEtcd
from events.log.errors import ArchiveUnavailable
from events.log.etcd_log import EtcdEventLog
from events.log.keys import Keys
from events.secrets.keyring import Keyring
from events.secrets.master import read_masters
from events.secrets.table import EtcdKeyTable
from tests.events.log.filled import fill

pytestmark = pytest.mark.servers

Json = dict[str, object]


async def _fill(data: Path) -> None:
    async with open_log(data, make=True) as access:
        log = EtcdEventLog(access.client.settings, blobs=access.blobs)
        await log.open()
        for partition in (0, 3):
            await fill(log, partition)
        await log.close()


async def _seal(data: Path) -> None:
    """A secret, so that the log names the master key."""
    async with open_log(data) as access:
        keyring = Keyring(table=EtcdKeyTable(access.client), master_file=data / MASTER_KEY_FILE)
        await keyring.seal_all("default", "component/x", {"PASSWORD": "hunter2"})


async def _damage(data: Path, partition: int, base: int) -> None:
    async with open_log(data) as access:
        key = Keys(access.client.settings.namespace).batch(partition, base)
        stored = await access.client.get(key)
        assert stored is not None
        await access.client.put(key, stored.value[:-1] + bytes([stored.value[-1] ^ 1]))


@contextmanager
def _running(data: Path) -> Iterator[None]:
    """As while the platform runs: the commands use its etcd and leave it running."""
    etcd = EmbeddedEtcd(data)
    asyncio.run(etcd.ensure())
    try:
        yield
        assert etcd.pid is not None, "one that ran stays"
    finally:
        asyncio.run(etcd.stop())


def ran(capsys: pytest.CaptureFixture[str], *arguments: str, expect: int = 0) -> Json:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    said = capsys.readouterr()
    assert code == expect, f"expected exit code {expect}, found {code}: {said.out} {said.err}"
    lines = said.err.splitlines() if expect else said.out.splitlines()
    found: Json = json.loads(lines[-1])
    return found


def test_a_log_is_verified_backed_up_restored_and_verified_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYFOLD_URL", raising=False)
    here = str(tmp_path / "here")
    asyncio.run(_fill(tmp_path / "here"))

    assert main(["log", "verify", "--data", here]) == 0
    said = capsys.readouterr()
    assert [head.split()[0] for head in said.out.splitlines()] == ["0:60", "3:60"]
    assert "16 partitions whole: 120 events in 24 batches" in said.err
    assert EmbeddedEtcd(tmp_path / "here").pid is None, "an etcd that it started does not stay"
    with _running(tmp_path / "here"):
        _back_up(tmp_path, capsys, said.out)
    assert ran(capsys, "backup", "restore", str(tmp_path / "b.tar"), "--data", str(tmp_path / "there"))["events"] == 120
    with _running(tmp_path / "there"):
        _verify_restored(tmp_path, capsys, said.out)


def _back_up(tmp_path: Path, capsys: pytest.CaptureFixture[str], printed: str) -> None:
    here, file = str(tmp_path / "here"), str(tmp_path / "b.tar")
    heads = printed.splitlines()
    (tmp_path / "heads").write_text(printed)

    made = ran(capsys, "backup", "create", file, "--data", here)
    assert (made["events"], made["heads"]) == (120, heads)
    assert "found" in str(ran(capsys, "backup", "create", file, "--data", here, expect=5)["error"])
    found = ran(capsys, "backup", "verify", file, "--since-head", str(tmp_path / "heads"))
    assert (found["whole"], found["sha256"], found["heads"]) == (True, made["sha256"], heads)

    found = ran(capsys, "backup", "verify", file, "--since-head", "0" * 64, expect=1)
    assert found["code"] == "log_rewritten"


def _verify_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str], printed: str) -> None:
    there, file = str(tmp_path / "there"), str(tmp_path / "b.tar")
    heads = printed.splitlines()
    assert "to restore into" in str(ran(capsys, "backup", "restore", file, "--data", there, expect=5)["error"])
    report = ran(capsys, "log", "verify", "--data", there, "--since-head", str(tmp_path / "heads"))
    assert report["whole"] is True
    assert [p["head"] for p in report["partitions"] if p["head"]] == heads  # type: ignore[union-attr, attr-defined]

    asyncio.run(_damage(tmp_path / "there", 3, 55))
    error = ran(capsys, "log", "verify", "--data", there, expect=1)
    assert "broken at 3:55 in etcd /rayfold/p/03/b/0000000000000037" in str(error["error"])
    assert "3:55" in str(ran(capsys, "backup", "create", file + "2", "--data", there, expect=1)["error"])


def test_a_backup_is_made_in_a_bucket_verified_and_restored_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, s3_archive: ArchiveSettings
) -> None:
    monkeypatch.delenv("RAYFOLD_URL", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    where = ["--endpoint", s3_archive.endpoint, "--credentials-file", s3_archive.credentials_file]
    asyncio.run(_fill(tmp_path / "here"))
    address = f"{s3_archive.url}/daily/b.tar"
    with _running(tmp_path / "here"):
        made = ran(capsys, "backup", "create", address, "--data", here, *where)
        assert (made["file"], made["events"]) == (address, 120)
        assert address in str(ran(capsys, "backup", "create", address, "--data", here, *where, expect=5)["error"])
        named = ran(capsys, "backup", "create", f"{s3_archive.url}/daily", "--data", here, *where)
        assert str(named["file"]).startswith(f"{s3_archive.url}/daily/rayfold-2")
    found = ran(capsys, "backup", "verify", address, *where, "--data", there)
    assert (found["whole"], found["sha256"], found["heads"]) == (True, made["sha256"], made["heads"])
    assert ran(capsys, "backup", "restore", address, *where, "--data", there)["events"] == 120
    with _running(tmp_path / "there"):
        assert ran(capsys, "log", "verify", "--deep", "--data", there)["whole"] is True
    assert list((tmp_path / "tmp").iterdir()) == [], "what was fetched is not left behind"

    missing = ran(capsys, "backup", "verify", f"{s3_archive.url}/none.tar", *where, expect=1)
    assert "none.tar" in str(missing["error"])
    asyncio.run(_damage_blob(s3_archive, "daily/b.tar"))
    damaged = ran(capsys, "backup", "restore", address, *where, "--data", str(tmp_path / "third"), expect=1)
    assert (damaged["code"], address in str(damaged["error"])) == ("backup_damaged", True)
    assert not (tmp_path / "third").exists(), "nothing is made of what is not whole"


async def _damage_blob(settings: ArchiveSettings, name: str) -> None:
    blobs = open_blobs(settings)
    data = bytearray(await blobs.get(name))
    data[len(data) // 3] ^= 1
    await blobs.put(name, bytes(data))


@pytest.mark.parametrize("address", ["ftp://host/b.tar", "s3://", "s3:///b.tar", "s3://bucket/with space.tar"])
def test_an_address_that_is_none_is_said(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("create", "verify", "restore"):
        assert "s3://" in str(ran(capsys, "backup", command, address, "--data", str(tmp_path / "x"), expect=2)["error"])


def test_a_file_url_is_that_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_fill(tmp_path / "here"))
    ran(capsys, "backup", "create", f"file://{tmp_path}/b.tar", "--data", str(tmp_path / "here"))
    assert ran(capsys, "backup", "verify", f"file://{tmp_path}/b.tar")["whole"] is True
    assert (tmp_path / "b.tar").is_file()


def test_what_is_no_log_and_no_backup_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data DIR" in str(ran(capsys, "log", "verify", "--data", str(tmp_path), expect=3)["error"])
    (tmp_path / "x.tar").write_bytes(b"no tar")
    assert ran(capsys, "backup", "verify", str(tmp_path / "x.tar"), expect=1)["code"] == "backup_damaged"
    assert ran(capsys, "backup", "verify", str(tmp_path / "none.tar"), expect=1)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.tar"], "nothing was made"


@pytest.mark.parametrize("stray", ["notes.txt", "archive/segments/08/0", "sql/rayfold.db"])
def test_a_restore_refuses_a_directory_that_holds_something_before_it_writes_anything(
    stray: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    (there / stray).parent.mkdir(parents=True)
    (there / stray).write_text("x")
    before = sorted(there.rglob("*"))
    refused = ran(capsys, "backup", "restore", str(tmp_path / "b.tar"), "--data", str(there), expect=5)
    assert refused["code"] == "not_empty" and str(there / stray) in str(refused["error"])
    assert sorted(there.rglob("*")) == before


def test_a_restore_takes_what_is_brought_along_and_says_which_master_key_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", str(tmp_path / "b.tar")
    asyncio.run(_fill(here))
    asyncio.run(_seal(here))
    ran(capsys, "backup", "create", file, "--data", str(here))
    (there / "tokens").mkdir(parents=True)
    (there / "tokens" / "admin").write_text("rfa_x")
    assert main(["backup", "restore", file, "--data", str(there)]) == 0
    said = capsys.readouterr().err
    [own] = read_masters(here / MASTER_KEY_FILE)
    assert f"need the master key {own.id}" in said and "made just now" in said

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(here / MASTER_KEY_FILE, other)
    assert main(["backup", "restore", file, "--data", str(other)]) == 0
    assert "ATTENTION" not in capsys.readouterr().err


def test_a_backup_that_is_cut_at_its_very_end_is_said_to_be_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b.tar"
    asyncio.run(_fill(tmp_path / "here"))
    ran(capsys, "backup", "create", str(file), "--data", str(tmp_path / "here"))
    whole = file.stat().st_size
    with file.open("r+b") as cut:
        cut.truncate(whole - 700)
    found = ran(capsys, "backup", "verify", str(file), expect=1)
    assert f"expected {whole} bytes, found {whole - 700}: it is cut short" in str(found["error"])


def test_a_bucket_without_keys_points_at_the_options_that_give_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: object) -> bool:
        raise ArchiveUnavailable("archive s3://nobucket: x.tar: no keys")

    monkeypatch.setattr("events.log.backup.bucket.BucketBackup.exists", refuse)
    asyncio.run(_fill(tmp_path / "here"))
    found = ran(capsys, "backup", "create", "s3://nobucket/x.tar", "--data", str(tmp_path / "here"), expect=1)
    assert "--credentials-file" in str(found["hint"]) and "--endpoint" in str(found["hint"])
