"""A platform on three etcds: members die and come back while commands flow and the application is visited.

Nothing acknowledged is lost or done twice, nobody who visits the application notices, the platform is ready again.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_cluster import EtcdCluster
from tests.etcd_network import LocalNetwork
from tests.system import apps
from tests.system.clients import Commanders, Visitors
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers, pytest.mark.long]

READY_SECONDS = 30.0
HELD_UP_SECONDS = 20.0
"""How long a command may take while the leader is replaced: an election, and the client's turn to another member."""


@pytest.fixture
def house() -> Iterator[tuple[Platform, EtcdCluster]]:
    """A platform told of all three members in its configuration, as in production."""
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    platform, etcd = Platform(base / "data"), EtcdCluster(base / "etcd", network=LocalNetwork())
    try:
        asyncio.run(etcd.__aenter__())
        platform.data.mkdir()
        endpoints = ", ".join(f'"{etcd.endpoint(member)}"' for member in etcd.members)
        (platform.data / "config.toml").write_text(f"[etcd]\nendpoints = [{endpoints}]\n")
        platform.up()
        yield platform, etcd
    finally:
        if (platform.data / "platform.json").exists():
            platform.down()
        asyncio.run(etcd.__aexit__())
        left = [p.pid for p in platform.processes()]
        for pid in left:
            Platform.end(pid)
    assert not left, f"expected nothing to run after `rayfold down`, found {left}"
    shutil.rmtree(base)


def test_etcd_members_that_are_killed_and_come_back_cost_nothing(
    house: tuple[Platform, EtcdCluster], told: list[str]
) -> None:
    platform, etcd = house
    source = apps.write(platform.data.parent / "source", apps.web("steady"))
    platform.cli("deploy", str(source), "--app", "steady")
    commanders = Commanders(platform, "changed")
    commanders.prepare()

    with Visitors(platform, "steady", [platform.host] * 2) as visitors, commanders:
        commanders.grows()
        for _ in range(2):  # then whoever leads after the first
            leader = asyncio.run(etcd.leader())
            etcd.kill(leader)
            killed = time.monotonic()
            commanders.grows()
            served = time.monotonic() - killed
            until("the platform to be ready on two members", lambda: platform.ready, READY_SECONDS)
            assert etcd.pid(leader) is None
            etcd.start(leader)
            asyncio.run(etcd.all_agree())
            commanders.grows()
            told.append(f"three etcds, the leader killed: {served:.1f} s until 40 more commands were acknowledged")
        until("the platform to be ready on three members", lambda: platform.ready, READY_SECONDS)
        platform.cli("deploy", str(apps.write(source, apps.web("again"))), "--app", "steady")

    told.append(f"three etcds: {commanders.told()}; {visitors.told()}")
    assert visitors.failed == []
    assert commanders.slowest < HELD_UP_SECONDS
    commanders.each_is_there_once()
    assert platform.serving("steady")["text"] == "again"
    assert platform.cli("status").json["ready"]
    platform.cli("log", "verify")
    assert len(set(asyncio.run(etcd.hashes()).values())) == 1, "etcd's members hold the same"
