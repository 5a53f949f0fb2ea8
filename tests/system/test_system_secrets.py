"""A secret reaches the application that it is for, and stands in clear nowhere else that the platform writes."""

from pathlib import Path

import psutil
import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

VALUE = "tr0ub4dor-and-three-more-words"
NODES = "node"
"""The node's own directory: what an instance is started with is in a 0600 file there while the instance lasts."""


def test_a_secret_is_in_the_applications_environment_and_nowhere_else(
    platform: Platform, deploy: Deploy, tmp_path: Path
) -> None:
    deploy("vault", apps.web("one"))
    (tmp_path / "secrets.env").write_text(f"GREETING={VALUE}\n")
    platform.cli("config", "set", "--secret", "--file", str(tmp_path / "secrets.env"), "--app", "vault", "-m", "sealed")
    assert platform.serving("vault")["greeting"] == VALUE

    platform.cli("secrets", "rotate-master")
    platform.cli("ps", "restart", "--app", "vault")
    assert platform.serving("vault")["greeting"] == VALUE, "another master key changes nothing"
    platform.visit("vault", "/tell")
    said = until("what it printed in its log", lambda: _lines_with(platform, "told"))
    assert said[-1].startswith("told •••• "), said
    platform.visit("vault", "/crash")
    until("its last lines in an event", lambda: "about to crash" in platform.cli("events", "--stream", "vault").out)
    assert platform.serving("vault")["greeting"] == VALUE

    shown = platform.cli("config", "get", "GREETING", "--app", "vault").json["GREETING"]
    assert shown.startswith("•••• (")
    service_id = platform.get(platform.component("vault"))["service_id"]
    told = [
        platform.cli("events", "--stream", "vault").out,
        platform.cli("replay", "vault").out,
        platform.cli("diff", "vault", "v1").out,
        platform.cli("releases", "info", "2", "--app", "vault").out,
        platform.cli("logs", "-n", "1000", "--app", "vault").out,
        str(platform.get(f"/v1/replay/component/{service_id}")),
    ]
    assert not any(VALUE in text or "sealed:" in text for text in told)
    lines = [" ".join(process.cmdline()) for process in psutil.process_iter() if _alive(process)]
    assert not any(VALUE in line for line in lines)
    found = _files_with(platform.data)
    assert [path for path in found if path.parts[0] != NODES] == [], (
        "read models, etcd's files, platform's and Ray's logs"
    )
    assert {path.name for path in found} == {"spec.json"}, "the search finds what is there"


def _lines_with(platform: Platform, word: str) -> list[str]:
    return [line["text"] for line in platform.cli("logs", "--word", word, "--app", "vault").lines]


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.cmdline())
    except psutil.Error:
        return False


def _files_with(data: Path) -> list[Path]:
    """Files of the platform that hold the value. Batches may be compressed in etcd: those the events above show."""
    files = [path for path in data.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.relative_to(data) for path in files if VALUE.encode() in path.read_bytes()]
