"""A builder killed in any phase of a build leaves no process, directory or half artifact, and harms no later build."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.builder.artifacts import DirectoryArtifactStore
from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.model import BuildState
from tests.actors.builder.conftest import EXAMPLES, Bench

pytestmark = pytest.mark.servers

USER = (70024, 70024) if os.getuid() == 0 else None
PHASES = (
    "builder-step-source",
    "builder-step-detect",
    "builder-step-dependencies",
    "builder-dependencies-installed",
    "builder-blob-written",
    "builder-cache-written",
    "builder-step-build",
    "builder-step-publish",
    "builder-publish",
)
KILLED = 137
PROGRAM = """
import asyncio
import sys
from pathlib import Path

from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.model import BuildRequest, SourceSpec


async def main(root, tree, uid):
    engine = BuildEngine(BuildDirs.under(Path(root, "data"), Path(root, "node")))
    await engine.start()
    request = BuildRequest(
        build_id="killed", service_id="s", team="t", app="a", component="web",
        source=SourceSpec(kind="directory", path=tree), user=(int(uid), int(uid)) if uid else None,
    )
    print(await engine.run(request))


asyncio.run(main(*sys.argv[1:]))
"""


def _source(tmp_path: Path) -> Path:
    """With dependencies and a build script, so that it goes through every phase."""
    tree = tmp_path / "source"
    shutil.copytree(EXAMPLES / "hello-node", tree, ignore=shutil.ignore_patterns("node_modules"))
    package = json.loads((tree / "package.json").read_text())
    package["scripts"] = {**package.get("scripts", {}), "build": "echo made > made.txt"}
    (tree / "package.json").write_text(json.dumps(package))
    return tree


def _build_in_a_process(root: Path, tree: Path, phase: str) -> subprocess.CompletedProcess[str]:
    uid = str(USER[0]) if USER else ""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(tree), uid],
        cwd=EXAMPLES.parent, env={**os.environ, "RAYFOLD_FAILPOINTS": f"{phase}=exit"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def _processes_of(uid: int) -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit() and entry.stat().st_uid == uid]


@pytest.mark.parametrize("phase", PHASES)
async def test_a_builder_killed_in_a_phase_leaves_nothing_and_the_build_succeeds_anew(
    open_dir: Path, tmp_path: Path, phase: str
) -> None:
    tree = _source(tmp_path)
    died = _build_in_a_process(open_dir, tree, phase)
    assert died.returncode == KILLED, (died.stdout, died.stderr)

    bench = Bench(open_dir)
    await bench.engine.start()
    assert list(bench.engine.dirs.work.iterdir()) == []
    if USER:
        assert _processes_of(USER[0]) == []
    again = await bench.build(tree, user=USER)
    assert again.state is BuildState.SUCCEEDED, again

    store = DirectoryArtifactStore(bench.engine.dirs.artifacts)
    for blob in await store.blobs():
        stored = bench.engine.dirs.artifacts / blob.digest[:2] / blob.digest
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == blob.digest
    # What was half written is another builder's until it is an hour old: only then it is known to be nobody's.
    store.sweep(time.time() + 2 * 3600)
    assert list(bench.engine.dirs.artifacts.glob("incoming-*")) == []


async def test_two_engines_of_one_machine_leave_each_others_builds_alone(open_dir: Path, tmp_path: Path) -> None:
    bench = Bench(open_dir)
    await bench.engine.start()
    built = await bench.build(_source(tmp_path), user=USER)
    other = BuildEngine(BuildDirs.under(open_dir / "data", open_dir / "node"))
    await other.start()
    assert built.artifact is not None
    assert await other.store.local_path(built.artifact.digest)
