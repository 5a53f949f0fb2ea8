"""Sending a directory's parts to a platform that does not behave: it ends, in time and with a word that helps."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from api.cli.main import main
from api.cli.sending import AT_ONCE, BUNDLE_BYTES, ROUNDS
from tests.api.cli.answers import deploys, parts_in
from tests.api.cli.conftest import HANG, Asked, ContractServer
from tests.api.cli.test_cli_commands import at_a_terminal

SOON_SECONDS = 20.0  # far less than a silent platform is waited for


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A directory of more than can be sent at once."""
    place = tmp_path / "shop"
    place.mkdir()
    (place / "photo.jpg").write_bytes(random.Random(1).randbytes(6 * BUNDLE_BYTES))
    return place


def test_many_parts_are_sent_in_a_few_requests_and_each_once(server: ContractServer, large: Path) -> None:
    deploys(server, [])

    assert main(["deploy", str(large), "--detach"]) == 0

    bundles = [parts_in(asked.raw) for asked in server.of("putParts")]
    sent = [part for bundle in bundles for part in bundle]
    wanted = server.of("joinUpload")[0].body["parts"]  # type: ignore[index]
    assert len(sent) == len(set(sent)) == len(wanted) > AT_ONCE < len(bundles) < 10
    assert max(sum(map(len, bundle)) for bundle in bundles) <= BUNDLE_BYTES


def test_a_platform_that_keeps_nothing_is_given_up(
    server: ContractServer, large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def join(asked: Asked) -> tuple[int, object]:
        missing = [asked.body["parts"][0]["sha256"]]  # type: ignore[index]
        return 200, {"team": "default", "sha256": "", "size_bytes": None, "missing": missing}

    deploys(server, [])
    server.answers["joinUpload"] = join

    assert main(["deploy", str(large)]) == 1
    assert f"1 missing after {ROUNDS} rounds" in capsys.readouterr().err
    assert len(server.of("putParts")) == ROUNDS and not server.of("deploy")


def test_ctrl_c_does_not_wait_for_a_silent_platform(server: ContractServer, large: Path) -> None:
    deploys(server, [])
    server.answers["putParts"] = [HANG]
    command = [sys.executable, "-m", "api.cli", "deploy", str(large)]
    with at_a_terminal(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + SOON_SECONDS
        while len(server.of("putParts")) < AT_ONCE:
            assert time.monotonic() < deadline, "nothing was sent"
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SOON_SECONDS)
        assert time.monotonic() - began < SOON_SECONDS
    assert process.returncode == 130
    assert not server.of("deploy")
