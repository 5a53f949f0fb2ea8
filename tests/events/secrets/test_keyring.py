"""Keys of teams: made once, opened while they stand, gone for good when destroyed, wrapped anew when the master moves.

Each test runs on the table in memory and on the one in etcd.
"""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.secrets.cipher import MasterKey, new_key
from events.secrets.errors import KeyDestroyed, MasterKeyUnusable, SealBroken
from events.secrets.keyring import Keyring
from events.secrets.master import ensure_master_file, read_masters, write_masters
from events.secrets.rotation import rotate_master
from events.secrets.table import EtcdKeyTable, KeyTable, MemoryKeyTable, keys_prefix

STREAM = "component/0123456789abcdef"


@pytest.fixture
def master_file(tmp_path: Path) -> Path:
    path = tmp_path / "master.key"
    ensure_master_file(path)
    return path


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.servers)])
def etcd(request: pytest.FixtureRequest) -> EtcdSettings | None:
    """Not async: the session's etcd is started on a loop of its own."""
    if request.param == "memory":
        return None
    settings = request.getfixturevalue("etcd_settings")
    assert isinstance(settings, EtcdSettings)
    return settings


@pytest.fixture
async def table(etcd: EtcdSettings | None) -> AsyncIterator[KeyTable]:
    if etcd is None:
        yield MemoryKeyTable()
        return
    async with EtcdClient(etcd) as client:
        yield EtcdKeyTable(client)


@pytest.fixture
def keyring(table: KeyTable, master_file: Path) -> Keyring:
    return Keyring(table=table, master_file=master_file)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    for name in ("before-key-made", "key-made", "before-destroy", "key-destroyed", "before-rewrap"):
        disarm(f"secrets.{name}")
    for name in ("master-written", "master-fenced", "master-rewrapped"):
        disarm(f"secrets.{name}")


async def sealed_password(keyring: Keyring, value: str = "hunter2") -> dict[str, str]:
    return await keyring.seal_all("shop", STREAM, {"PASSWORD": value})


async def test_what_was_sealed_is_opened_and_the_rest_is_left_alone(keyring: Keyring) -> None:
    sealed = await sealed_password(keyring)

    opened = await keyring.open_all("shop", STREAM, {**sealed, "PLAIN": "x"})

    assert opened == {"PASSWORD": "hunter2", "PLAIN": "x"}
    assert await sealed_password(keyring) == sealed, "the same value again is no change"


async def test_two_that_make_a_key_at_once_use_the_same_one(table: KeyTable, master_file: Path) -> None:
    rings = [Keyring(table=table, master_file=master_file) for _ in range(8)]

    texts = await asyncio.gather(*(sealed_password(ring) for ring in rings))

    assert len({text["PASSWORD"] for text in texts}) == 1
    assert len((await rings[0].keys("shop")).keys) == 1


@pytest.mark.parametrize("moment", ["before-key-made", "key-made"])
async def test_a_key_whose_maker_dies_is_made_once(keyring: Keyring, moment: str) -> None:
    arm(f"secrets.{moment}", "once-error")
    with pytest.raises(FailpointError):
        await sealed_password(keyring)

    sealed = await sealed_password(keyring)

    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}
    assert len((await keyring.keys("shop")).keys) == 1


async def test_a_value_of_another_team_or_of_an_unknown_key_is_not_opened(keyring: Keyring) -> None:
    sealed = await sealed_password(keyring)
    await keyring.seal_all("bank", STREAM, {"PASSWORD": "hunter2"})

    with pytest.raises(SealBroken, match="sealed for team bank"):
        await keyring.open_all("bank", STREAM, sealed)
    forged = {"PASSWORD": sealed["PASSWORD"].replace(":shop:", ":bank:")}
    with pytest.raises(KeyDestroyed, match="found none of that id"):
        await keyring.open_all("bank", STREAM, forged)


async def test_a_destroyed_key_opens_nothing_and_leaves_nothing(keyring: Keyring, table: KeyTable) -> None:
    sealed = await sealed_password(keyring)
    key = (await keyring.keys("shop")).keys[0]

    await keyring.destroy("shop", key.id, by="ann", reason="left the company")

    with pytest.raises(KeyDestroyed, match=r"destroyed by ann \(left the company\)"):
        await keyring.open_all("shop", STREAM, sealed)
    [left] = (await keyring.keys("shop")).keys
    assert (left.wrapped, left.destroyed_by, left.reason) == (b"", "ann", "left the company")
    if isinstance(table, MemoryKeyTable):
        assert all(key.wrapped not in old.wrapped for _, keys in table.history for old in keys.keys)


async def test_after_destruction_a_new_key_seals_and_the_old_values_stay_lost(keyring: Keyring) -> None:
    old = await sealed_password(keyring)
    await keyring.destroy("shop", (await keyring.keys("shop")).keys[0].id, by="ann", reason="")

    new = await sealed_password(keyring)

    assert new != old
    assert await keyring.open_all("shop", STREAM, new) == {"PASSWORD": "hunter2"}
    with pytest.raises(KeyDestroyed):
        await keyring.open_all("shop", STREAM, old)


@pytest.mark.parametrize("moment", ["before-destroy", "key-destroyed"])
async def test_destroying_goes_on_where_it_was_cut_off_and_keeps_who_did_it(keyring: Keyring, moment: str) -> None:
    await sealed_password(keyring)
    key_id = (await keyring.keys("shop")).keys[0].id
    arm(f"secrets.{moment}", "once-error")
    with pytest.raises(FailpointError):
        await keyring.destroy("shop", key_id, by="ann", reason="why")

    await keyring.destroy("shop", key_id, by="ann", reason="why")
    once = await keyring.keys("shop")
    await keyring.destroy("shop", key_id, by="bob", reason="again")

    assert await keyring.keys("shop") == once
    assert once.keys[0].destroyed_by == "ann"


async def test_rotating_leaves_every_value_readable_and_the_old_master_useless(
    keyring: Keyring, master_file: Path
) -> None:
    sealed = await sealed_password(keyring)
    [old] = read_masters(master_file)

    told = await rotate_master(keyring, master_file)

    [new] = read_masters(master_file)
    assert (told.before, told.after, told.rewrapped) == (old.id, new.id, 1)
    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}
    assert await sealed_password(keyring) == sealed
    write_masters(master_file, [old])
    with pytest.raises(MasterKeyUnusable, match=f"expected the master key {new.id}"):
        await keyring.open_all("shop", STREAM, sealed)


@pytest.mark.parametrize("moment", ["master-written", "master-fenced", "before-rewrap", "master-rewrapped"])
async def test_a_rotation_that_was_cut_off_is_finished_by_the_next(
    keyring: Keyring, master_file: Path, moment: str
) -> None:
    sealed = await sealed_password(keyring)
    [old] = read_masters(master_file)
    arm(f"secrets.{moment}", "once-error")
    with pytest.raises(FailpointError):
        await rotate_master(keyring, master_file)
    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}, "nothing unreadable meanwhile"
    assert await keyring.seal_all("bank", STREAM, {"A": "b"})

    told = await rotate_master(keyring, master_file)

    [new] = read_masters(master_file)
    assert (told.before, told.after) == (old.id, new.id)
    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}


async def test_nobody_wraps_with_an_old_master_after_the_rotation_passed(
    table: KeyTable, keyring: Keyring, master_file: Path, tmp_path: Path
) -> None:
    """A machine whose file was not brought up to date must not make a key that soon nobody can unwrap."""
    await sealed_password(keyring)
    stale = tmp_path / "stale.key"
    write_masters(stale, read_masters(master_file))
    await rotate_master(keyring, master_file)

    with pytest.raises(MasterKeyUnusable, match="put your copy of that key there"):
        await Keyring(table=table, master_file=stale).seal_all("bank", STREAM, {"A": "b"})

    assert not (await keyring.keys("bank")).keys


async def test_of_two_rotations_on_two_machines_the_overtaken_one_stops_and_both_files_together_open_all(
    table: KeyTable, keyring: Keyring, master_file: Path, tmp_path: Path
) -> None:
    sealed = await sealed_password(keyring)
    other = tmp_path / "other.key"
    write_masters(other, read_masters(master_file))
    arm("secrets.master-fenced", "once-error")
    with pytest.raises(FailpointError):
        await rotate_master(keyring, master_file)
    arm("secrets.master-fenced", "once-error")
    with pytest.raises(FailpointError):
        await rotate_master(Keyring(table=table, master_file=other), other)
    overtaken, winner = read_masters(master_file), read_masters(other)

    with pytest.raises(MasterKeyUnusable, match="found another"):
        await keyring.rewrap_all({m.id: m for m in overtaken}, overtaken[0])

    write_masters(master_file, [winner[0], *overtaken])
    await rotate_master(keyring, master_file)
    assert [m.id for m in read_masters(master_file)] == [winner[0].id]
    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}


async def test_a_key_of_ones_own_put_in_front_is_taken_up_by_the_rotation(keyring: Keyring, master_file: Path) -> None:
    sealed = await sealed_password(keyring)
    own = MasterKey(new_key())
    write_masters(master_file, [own, *read_masters(master_file)])

    assert (await rotate_master(keyring, master_file)).after == own.id

    assert [m.id for m in read_masters(master_file)] == [own.id]
    assert await keyring.open_all("shop", STREAM, sealed) == {"PASSWORD": "hunter2"}


async def test_after_the_loss_of_the_master_key_one_begins_anew(keyring: Keyring, master_file: Path) -> None:
    """What was sealed is lost; destroying the keys that nobody can unwrap any more makes room for new ones."""
    old = await sealed_password(keyring)
    master_file.unlink()
    ensure_master_file(master_file)
    with pytest.raises(MasterKeyUnusable, match="put your copy"):
        await sealed_password(keyring)
    with pytest.raises(MasterKeyUnusable, match="put your copy"):
        await rotate_master(keyring, master_file)

    await keyring.destroy("shop", (await keyring.keys("shop")).keys[0].id, by="ann", reason="master key lost")
    await rotate_master(keyring, master_file)

    new = await sealed_password(keyring)
    assert await keyring.open_all("shop", STREAM, new) == {"PASSWORD": "hunter2"}
    with pytest.raises(KeyDestroyed):
        await keyring.open_all("shop", STREAM, old)


def test_the_master_file_is_its_owners_only_and_is_never_replaced(master_file: Path) -> None:
    before = master_file.read_bytes()

    ensure_master_file(master_file)

    assert master_file.read_bytes() == before
    assert master_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in master_file.parent.iterdir()] == ["master.key"]


async def test_a_master_file_that_others_may_read_or_that_is_gone_is_refused(
    keyring: Keyring, master_file: Path
) -> None:
    master_file.chmod(0o644)
    with pytest.raises(MasterKeyUnusable, match="chmod 600"):
        await sealed_password(keyring)
    master_file.unlink()
    with pytest.raises(MasterKeyUnusable, match="found no file"):
        await sealed_password(keyring)


MAKE_AND_DIE = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.secrets.keyring import Keyring
from events.secrets.table import EtcdKeyTable

async def main() -> None:
    async with EtcdClient(msgspec.convert(json.loads(sys.argv[1]), EtcdSettings)) as client:
        ring = Keyring(table=EtcdKeyTable(client), master_file=Path(sys.argv[2]))
        await ring.seal_all("shop", "component/0123456789abcdef", {"PASSWORD": "hunter2"})
        [key] = (await ring.keys("shop")).keys
        await ring.destroy("shop", key.id, by="ann", reason="")

asyncio.run(main())
"""


@pytest.mark.servers
async def test_a_process_that_dies_amid_destruction_leaves_it_to_be_finished(
    etcd_settings: EtcdSettings, master_file: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAKE_AND_DIE, json.dumps(msgspec.to_builtins(etcd_settings)), str(master_file),
        env={**os.environ, "RAYFOLD_FAILPOINTS": "secrets.key-destroyed=exit"}, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    async with asyncio.timeout(60):
        assert await process.wait() == 137
    async with EtcdClient(etcd_settings) as client:
        ring = Keyring(table=EtcdKeyTable(client), master_file=master_file)
        [key] = (await ring.keys("shop")).keys
        assert key.destroyed_at and not key.wrapped
        path = keys_prefix(etcd_settings.namespace) + "shop"
        found = await client.get(path)
        assert found is not None
        before = (await client.range(path, path + "\0", limit=1, revision=found.mod_revision - 1)).items
        assert b"wrapped" in before[0].value, "the old version is still in etcd's history"

        await ring.destroy("shop", key.id, by="ann", reason="")

        with pytest.raises(Exception, match="compacted"):
            await client.range(path, path + "\0", limit=1, revision=found.mod_revision - 1)


@pytest.mark.servers
async def test_what_etcd_holds_is_not_the_key(etcd_settings: EtcdSettings, master_file: Path) -> None:
    async with EtcdClient(etcd_settings) as client:
        ring = Keyring(table=EtcdKeyTable(client), master_file=master_file)
        await sealed_password(ring)
        stored = b"".join(item.value for item in await client.get_prefix(f"/{etcd_settings.namespace}/"))
    [master] = read_masters(master_file)
    assert master.to_text().encode() not in stored
    assert base64.b64encode(b"hunter2") not in stored and b"hunter2" not in stored
