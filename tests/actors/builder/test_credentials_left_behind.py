"""A builder that dies with a team's key or token in hand: what it leaves is closed, and removed by the next."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.actors.builder.conftest import EXAMPLES, Bench, eventually, processes_with
from tests.git_hosts import HttpHost

pytestmark = pytest.mark.servers

USER = (70031, 70031) if os.getuid() == 0 else None
PROGRAM = """
import asyncio
import sys
from pathlib import Path

from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.model import BuildRequest, SourceSpec
from actors.supervisor.orders import SourceAccess
from events.model.team_credentials import CredentialKind, kind_for


async def access(url):
    return SourceAccess(name="a", prefix=url, kind=kind_for(url), user="ada", secret="the-secret\\n")


async def main(root, url):
    engine = BuildEngine(BuildDirs.under(Path(root, "data"), Path(root, "node")), access_for=lambda request: access)
    await engine.start()
    source = SourceSpec(kind="git", url=url)
    await engine.run(BuildRequest(build_id="killed", service_id="s", team="t", app="a", component="web", source=source))


asyncio.run(main(*sys.argv[1:]))
"""


def builder(root: Path, url: str, failpoint: str = "") -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "RAYFOLD_FAILPOINTS": failpoint}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), url], cwd=EXAMPLES.parent, env=environment)


async def test_a_builder_that_dies_with_a_key_in_hand_leaves_what_the_next_one_removes(open_dir: Path) -> None:
    died = builder(open_dir, "ssh://git@127.0.0.1:9/shop", "builder-credential-written=exit")
    assert died.wait(60) == 137

    [left] = open_dir.rglob("access-*/key")
    assert left.stat().st_mode & 0o777 == 0o600 and left.parent.stat().st_mode & 0o777 == 0o700
    if USER and shutil.which("setpriv"):
        asked = ["setpriv", f"--reuid={USER[0]}", f"--regid={USER[1]}", "--clear-groups", "cat", str(left)]
        assert subprocess.run(asked, capture_output=True, check=False).returncode != 0
    await Bench(open_dir).engine.start()
    assert not list(open_dir.rglob("access-*"))


async def test_a_builder_killed_while_git_fetches_leaves_no_token_and_no_git(open_dir: Path, http: HttpHost) -> None:
    killed = builder(open_dir, f"{http.url}/acme/shop")
    http.passwords["acme"] = "ada:the-secret"
    http.look = killed.kill
    assert killed.wait(60) == -9

    assert len(list(open_dir.rglob("access-*/answer.json"))) == 1
    await eventually(lambda: not processes_with(f"{http.url}/acme/shop"))
    await Bench(open_dir).engine.start()
    assert not list(open_dir.rglob("access-*"))
