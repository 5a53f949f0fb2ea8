"""What a node unpacks for an application: it can be run in, by that application alone."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.builder.artifacts import DirectoryArtifactStore, Manifest, put_layer, put_manifest
from actors.node.actor import NodeArtifacts
from actors.runtime.port import ExitCause, InstanceSpec
from actors.runtime.processes import ProcessRuntime
from actors.runtime.users import UserBook
from tests.actors.runtime.instances import Instances

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives applications users of their own")


class Place:
    """A node with an artifact store, in a directory that other users can reach."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.runtime = ProcessRuntime(node_root=base / "node", run_dir=base / "run")
        self.store = DirectoryArtifactStore(base / "store")
        (base / "unpacked").mkdir(mode=0o711)
        users = UserBook(base / "node" / "uids.json")
        self.artifacts = NodeArtifacts(store=self.store, root=base / "unpacked", users=users)

    async def built(self, program: str) -> str:
        """The digest of an artifact that is one shell program, `run`."""
        source = self.base / "source"
        source.mkdir()
        (source / "run").write_text(program)
        (source / "run").chmod(0o755)
        layer = await put_layer(self.store, source, scratch=self.base, owner=None, limit_bytes=10**6, skip=frozenset())
        manifest = Manifest(
            language="procfile", runtime="system", interpreter=None, app=layer, deps=None, processes={"web": "./run"}
        )
        return (await put_manifest(self.store, manifest, scratch=self.base)).digest

    async def run(self, instance_id: str, app: str, path: str) -> list[str]:
        """Run `./run` in `path` as the application until it ends; what it said."""
        spec = InstanceSpec(
            instance_id=instance_id,
            service_id="0123456789abcdef",
            team="acme",
            app=app,
            component="web",
            release=1,
            command="./run",
            artifact_path=path,
        )
        await self.runtime.start(spec)
        await Instances.over(self.runtime, instance_id)
        return await self.runtime.last_lines(instance_id)


@pytest.fixture
async def place(base: Path) -> AsyncIterator[Place]:
    place = Place(base)
    await place.runtime.open()
    yield place
    for status in await place.runtime.list():
        await place.runtime.stop(status.instance_id, 0.0)
    await place.runtime.close()


async def test_what_was_built_is_unpacked_once_and_runs(place: Place) -> None:
    digest = await place.built("#!/bin/sh\necho it runs\n")

    first = await place.artifacts.prepare(digest, "acme", "shop")
    again = await place.artifacts.prepare(digest, "acme", "shop")

    assert first == again
    assert await place.run("one", "shop", first.path) == ["it runs"]


@pytest.mark.root
@ROOT
async def test_an_artifact_belongs_to_its_application_alone(place: Place) -> None:
    digest = await place.built("#!/bin/sh\necho it runs\ntouch planted 2>/dev/null || echo not writable\n")
    path = (await place.artifacts.prepare(digest, "acme", "shop")).path

    assert await place.run("mine", "shop", path) == ["it runs", "not writable"]
    await place.run("theirs", "blog", path)
    assert (await place.runtime.status("theirs")).cause is ExitCause.START_FAILED
