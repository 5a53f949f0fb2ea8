"""What every `Executor` promises, as tests through the engine it is composed into; a subclass gives `bench`.

A Dockerfile needs an image to begin with, so only `test_images.py` builds one that succeeds.
"""

from pathlib import Path

import pytest

from actors.builder.executor import Executor
from actors.builder.model import BuildState, SourceSpec
from actors.builder.unpack import unpack_artifact
from tests.actors.builder.conftest import Bench, write_tree

MISSING = "localhost:1/nobody/none@sha256:" + "0" * 64


class ExecutorContract:
    """Subclass, and override `bench`."""

    @pytest.fixture
    def bench(self, open_dir: Path) -> Bench:
        raise NotImplementedError

    def executor(self, bench: Bench) -> Executor:
        return bench.engine._executor

    async def test_a_source_becomes_an_artifact_that_holds_it(self, bench: Bench, tmp_path: Path) -> None:
        files = {"index.html": "<p>hello</p>", "css/site.css": "p {}"}
        found = await bench.build(write_tree(tmp_path, files))
        assert found.artifact is not None, found
        path = await unpack_artifact(bench.engine.store, found.artifact.digest, bench.root / "node", None)
        assert {name: (path / "app" / name).read_text() for name in files} == files

    async def test_a_sweep_when_nothing_is_left_does_nothing(self, bench: Bench) -> None:
        await self.executor(bench).sweep()

    async def test_a_dockerfile_is_taken_for_one_wherever_images_are_built(self, bench: Bench, tmp_path: Path) -> None:
        found = await bench.build(write_tree(tmp_path, {"Dockerfile": f"FROM {MISSING}\n"}))
        assert found.state is BuildState.FAILED
        assert (found.code == "dockerfile_failed") is self.executor(bench).builds_images, found

    async def test_an_image_that_cannot_be_had_is_an_outcome_with_a_code(self, bench: Bench) -> None:
        found = await bench.engine.run(bench.request(SourceSpec(kind="image", url=MISSING)))
        assert found.state is BuildState.FAILED and found.code
        assert (found.code == "engine_missing") is not self.executor(bench).builds_images, found
