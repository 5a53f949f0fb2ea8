"""A backup of a platform in use, restored into an empty data directory, is that platform again: states, secrets, apps.

And what a restore cannot know is said: read models that have seen more, a snapshot that is damaged.
"""

import datetime
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Json, Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers, pytest.mark.long]


@pytest.fixture
def restored() -> Iterator[Platform]:
    """A platform that is not there yet; the test fills its directory and starts it."""
    data = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    data.chmod(0o711)
    platform = Platform(data)
    try:
        yield platform
    finally:
        if (data / "platform.json").exists():
            platform.down()
        left = platform.processes()
        for process in left:
            Platform.end(process.pid)
    assert not left, f"expected nothing to run after `rayfold down`, found {left}"
    shutil.rmtree(data)


def test_a_restored_platform_is_the_one_that_was_backed_up(
    platform: Platform, restored: Platform, deploy: Deploy, tmp_path: Path
) -> None:
    deploy("kept", apps.web("one"), "-m", "the beginning")
    platform.cli("config", "set", "GREETING=hello", "--app", "kept", "-m", "be polite")
    platform.cli("config", "set", "--secret", "TOKEN=tell-nobody", "--app", "kept")
    platform.cli("log", "archive", "--all")
    platform.cli("ps", "scale", "web=2", "--app", "kept")  # archived and hot events are both in the backup
    then = datetime.datetime.now(datetime.UTC).isoformat()
    file = str(tmp_path / "b.tar")
    made = platform.cli("backup", "create", file, "--with-artifacts").json
    before = _states(platform, then)
    story = platform.events()
    platform.cli("config", "set", "GREETING=later", "--app", "kept")  # lost with what was not backed up

    assert restored.cli("backup", "restore", file).json["events"] == made["events"]
    shutil.copy2(platform.data / "master.key", restored.data / "master.key")
    shutil.copytree(platform.data / "tokens", restored.data / "tokens", dirs_exist_ok=True)
    _copy_read_models(platform.data, restored.data)  # which have seen more than the backup has
    restored.up()

    assert _states(restored, then) == before
    ends = dict(head.split()[0].split(":") for head in made["heads"])
    kept = [event for event in story if _offset(event) < int(ends[event["position"].partition(":")[0]])]
    assert _by_position(restored.events(), kept) == kept
    until("the app to serve", lambda: restored.visit("kept").status == 200, 60)
    assert restored.serving("kept")["greeting"] == "hello"
    assert platform.serving("kept")["greeting"] == "later", "the first platform goes on beside it"
    _is_refused_and_rebuilt(restored)
    until("two instances", lambda: len(restored.instances("kept")) == 2, 60)
    restored.cli("config", "set", "GREETING=again", "--app", "kept")
    assert restored.serving("kept")["greeting"] == "again"

    restored.cli("pool", "scale", "supervisor=2", "--wait")  # whoever gives a partition up takes a snapshot of it
    restored.down()
    _verified_to_the_bottom(restored)


def _copy_read_models(source: Path, target: Path) -> None:
    """As they are now, while they are written to."""
    (target / "sql").mkdir(mode=0o700, exist_ok=True)
    for path in (source / "sql").glob("*.db"):
        with closing(sqlite3.connect(path)) as here, closing(sqlite3.connect(target / "sql" / path.name)) as there:
            here.backup(there)


def _states(platform: Platform, at: str) -> list[Json]:
    return platform.cli("replay", "--all", "--at", at).lines


def _offset(event: Json) -> int:
    return int(event["position"].partition(":")[2])


def _by_position(found: list[Json], wanted: list[Json]) -> list[Json]:
    known = {event["position"]: event for event in found}
    return [known[event["position"]] for event in wanted]


def _is_refused_and_rebuilt(restored: Platform) -> None:
    """Checkpoints beyond the tail: the platform says which read model has seen what the log does not hold."""
    status = restored.cli("status", expect=None)
    assert status.code == 1
    assert "ahead of the log" in status.out and "rayfold projections rebuild all" in status.out
    restored.cli("projections", "rebuild", "all")
    until("the platform to be ready", lambda: restored.ready, 60)


def _verified_to_the_bottom(restored: Platform) -> None:
    """Snapshots that this platform's owners took, against a fold from zero; then one is damaged."""
    whole = restored.cli("log", "verify", "--deep").json
    covered = [part["partition"] for part in whole["partitions"] if part["snapshot"]]
    assert whole["whole"] and covered
    blob = max((restored.data / "archive" / "snapshots" / f"{covered[0]:02d}").iterdir(), key=lambda path: path.name)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(bytes(data))
    damaged = restored.cli("log", "verify", expect=1).error
    assert damaged["code"] == "snapshot_damaged"
    assert f"snapshots/{covered[0]:02d}/{blob.name}" in json.dumps(damaged)
