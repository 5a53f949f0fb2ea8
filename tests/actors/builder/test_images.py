"""Builds with a real container engine and a real registry: Dockerfiles, images, slugs put on a runner image."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from actors.builder.artifacts import ImageRun, Manifest, put_manifest, read_manifest
from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.model import BuildOutcome, BuildState, SourceSpec
from actors.builder.retention import InUse, Swept
from actors.containers.engine import BUILD_LABEL, HOME_LABEL, ContainerEngine
from actors.containers.errors import ImageNotFound, RegistryRefused
from actors.containers.reference import parse_reference
from actors.containers.registry import resolve
from actors.containers.settings import ContainerSettings
from events.failpoints import FailpointError, arm, disarm
from tests.actors.builder.conftest import Bench, eventually, write_tree
from tests.actors.builder.executor_contract import ExecutorContract
from tests.container_engine import BUSYBOX, Engine, running_registry

pytestmark = [pytest.mark.servers, pytest.mark.root]

LONG = f"4242.{os.getpid()}"  # seconds, and no other run's
USER = (70031, 70031) if os.getuid() == 0 else None


def settings_of(engine: Engine, **changes: object) -> ContainerSettings:
    values = {"engine": engine.address, "registry": f"{engine.registry}/rayfold", **changes}
    return ContainerSettings(**values)  # type: ignore[arg-type]


class ContainerBench(Bench):
    """A bench whose engine has containers."""

    def with_containers(self, settings: ContainerSettings) -> "ContainerBench":
        self.engine = BuildEngine(
            BuildDirs.under(self.root / "data", self.root / "node"), sink_for=self._sink_for, containers=settings
        )
        return self


@pytest.fixture
async def bench(open_dir: Path, container_engine: Engine) -> AsyncIterator[ContainerBench]:
    made = ContainerBench(open_dir).with_containers(settings_of(container_engine))
    await made.engine.start()
    yield made


class TestContract(ExecutorContract):
    @pytest.fixture
    async def bench(self, open_dir: Path, container_engine: Engine) -> Bench:
        made = ContainerBench(open_dir).with_containers(settings_of(container_engine))
        await made.engine.start()
        return made


def dockerfile(engine: Engine, *lines: str) -> str:
    return "\n".join([f"FROM {engine.registry}/{BUSYBOX}", *lines, ""])


async def manifest_of(bench: Bench, outcome: BuildOutcome) -> Manifest:
    assert outcome.artifact is not None, f"{outcome}\n{bench.text(outcome.build_id)}"
    return await read_manifest(bench.engine.store, outcome.artifact.digest)


async def run_image(engine: Engine, reference: str, *command: str) -> str:
    """Run a container of the image, which is pulled, to its end; its output."""
    await ContainerEngine(engine.address).pull(parse_reference(reference))

    def run() -> str:
        with engine.client() as client:
            made = client.create_container(reference, command=list(command) or None)
            try:
                client.start(made["Id"])
                client.wait(made["Id"])
                return client.logs(made["Id"]).decode()
            finally:
                client.remove_container(made["Id"], force=True)

    return await asyncio.to_thread(run)


async def test_a_dockerfile_is_built_pushed_and_named_by_digest(
    bench: ContainerBench, container_engine: Engine, tmp_path: Path
) -> None:
    files = {
        "Dockerfile": dockerfile(
            container_engine, "COPY hello.txt secret.env* /app/", "RUN echo built on line one && ls /app",
            "EXPOSE 8000/tcp", 'CMD ["cat", "/app/hello.txt"]',
        ),
        "hello.txt": "hello from the image\n",
        "secret.env": "PASSWORD=x",
        ".dockerignore": "*.env\nDockerfile\n",
    }  # fmt: skip
    outcome = await bench.build(write_tree(tmp_path, files), user=USER)
    manifest = await manifest_of(bench, outcome)

    assert outcome.artifact is not None and manifest.image is not None and manifest.app is None
    assert manifest.image.reference.startswith(f"{container_engine.registry}/rayfold/t/a/web@sha256:")
    assert (manifest.image.command, manifest.image.port) == ("cat /app/hello.txt", 8000)
    assert outcome.artifact.processes == {"web": "cat /app/hello.txt"}
    text = bench.text(outcome.build_id)
    assert "built on line one" in text and "hello.txt" in text
    assert "\nsecret.env" not in text, "what .dockerignore names was sent"
    assert await run_image(container_engine, manifest.image.reference) == "hello from the image\n"


async def test_the_same_dockerfile_again_comes_from_the_cache(
    bench: ContainerBench, container_engine: Engine, tmp_path: Path
) -> None:
    lines = ("RUN echo made by the first", 'CMD ["true"]')
    tree = write_tree(tmp_path, {"Dockerfile": dockerfile(container_engine, *lines)})
    first = await bench.build(tree, user=USER)
    again = await bench.build(tree, user=USER)

    assert first.artifact is not None and again.artifact is not None, bench.text(first.build_id)
    assert "Using cache" in bench.text(again.build_id)
    assert "Using cache" not in bench.text(first.build_id)


async def test_a_dockerfile_that_fails_says_which_lines(
    bench: ContainerBench, container_engine: Engine, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path, {"Dockerfile": dockerfile(container_engine, "RUN echo about to fail && false")})
    outcome = await bench.build(tree, user=USER)

    assert (outcome.state, outcome.code) == (BuildState.FAILED, "dockerfile_failed")
    assert any("false" in line for line in outcome.lines), outcome


async def test_memory_of_a_step_is_limited(container_engine: Engine, open_dir: Path, tmp_path: Path) -> None:
    bench = ContainerBench(open_dir).with_containers(settings_of(container_engine, build_memory_mib=32))
    await bench.engine.start()
    # What a tmpfs holds counts as memory of the group; /dev/shm of a step is one.
    hog = "RUN echo limit $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes) && head -c 60000000 /dev/zero > /dev/shm/x"
    outcome = await bench.build(write_tree(tmp_path, {"Dockerfile": dockerfile(container_engine, hog)}), user=USER)

    assert "limit 33554432" in bench.text(outcome.build_id)
    assert outcome.code == "dockerfile_failed", outcome


async def test_a_cancelled_build_leaves_no_container_and_no_process(
    bench: ContainerBench, container_engine: Engine, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path, {"Dockerfile": dockerfile(container_engine, f"RUN sleep {LONG}")})
    building = asyncio.create_task(bench.build(tree, user=USER))
    await eventually(lambda: bool(_sleepers()))

    assert await bench.engine.cancel("b1")

    assert (await building).state is BuildState.CANCELLED
    await eventually(lambda: not _sleepers())


async def test_a_builder_killed_in_the_middle_leaves_nothing(
    open_dir: Path, container_engine: Engine, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path, {"Dockerfile": dockerfile(container_engine, f"RUN sleep {LONG}")})
    program = f"""
import asyncio
from pathlib import Path
from tests.actors.builder.test_images import ContainerBench
from actors.containers.settings import ContainerSettings

async def main():
    bench = ContainerBench(Path({str(open_dir)!r}))
    bench.with_containers(ContainerSettings(engine={container_engine.address!r}))
    await bench.engine.start()
    await bench.build(Path({str(tree)!r}))

asyncio.run(main())
"""
    builder = subprocess.Popen([sys.executable, "-c", program])
    try:
        await eventually(lambda: bool(_sleepers()), seconds=40.0)
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.wait()

    bench = ContainerBench(open_dir).with_containers(settings_of(container_engine))
    await bench.engine.start()
    await eventually(lambda: not _sleepers())
    left = await ContainerEngine(container_engine.address).containers({BUILD_LABEL: ""})
    assert left == []
    assert list(bench.engine.dirs.work.iterdir()) == []


def _sleepers() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", LONG.encode()]:
                found.append(entry.name)
    return found


async def test_without_an_engine_it_is_said_what_is_missing(open_dir: Path, tmp_path: Path) -> None:
    plain = Bench(open_dir)
    await plain.engine.start()
    tree = write_tree(tmp_path, {"Dockerfile": "FROM scratch", "rayfold.toml": "[build]\ndockerfile = 'Dockerfile'"})

    by_source = await plain.build(tree, user=USER)
    image = SourceSpec(kind="image", url=f"h.example/x@sha256:{'0' * 64}")
    by_image = await plain.engine.run(plain.request(image))

    assert (by_source.code, by_image.code) == ("engine_missing", "engine_missing")
    assert "[containers]" in by_image.reason


async def test_an_engine_that_is_away(open_dir: Path, tmp_path: Path) -> None:
    settings = ContainerSettings(engine=f"unix://{tmp_path}/nobody.sock")
    bench = ContainerBench(open_dir).with_containers(settings)
    await bench.engine.start()

    outcome = await bench.build(write_tree(tmp_path / "src", {"Dockerfile": "FROM scratch"}), user=USER)
    image = SourceSpec(kind="image", url=f"h.example/x@sha256:{'0' * 64}")
    by_image = await bench.engine.run(bench.request(image))

    assert (outcome.code, by_image.code) == ("engine_failed", "engine_missing"), (outcome, by_image)


async def test_an_image_is_taken_by_the_digest_it_had_when_it_was_asked_for(
    bench: ContainerBench, container_engine: Engine
) -> None:
    asked = parse_reference(f"{container_engine.registry}/{BUSYBOX}")
    pinned = await resolve(asked)
    outcome = await bench.engine.run(bench.request(SourceSpec(kind="image", url=str(pinned), ref=str(asked))))
    manifest = await manifest_of(bench, outcome)

    assert manifest.image is not None and manifest.image.reference == str(pinned)
    assert outcome.artifact is not None and outcome.artifact.processes == {"web": "/bin/sh"}
    assert (await resolve(pinned)) == pinned


async def test_what_a_registry_does_not_have(bench: ContainerBench, container_engine: Engine) -> None:
    for missing in ("rayfold-test/busybox:2", "rayfold-test/nobody:1", f"rayfold-test/busybox@sha256:{'1' * 64}"):
        with pytest.raises(ImageNotFound, match="has no image"):
            await resolve(parse_reference(f"{container_engine.registry}/{missing}"))
    with pytest.raises(RegistryRefused) as caught:
        await resolve(parse_reference("127.0.0.1:9/x:1"))
    assert caught.value.code == "registry_unreachable"

    gone = SourceSpec(kind="image", url=f"{container_engine.registry}/rayfold-test/busybox@sha256:{'1' * 64}")
    assert (await bench.engine.run(bench.request(gone))).code == "image_not_found"


async def test_a_slug_is_put_on_its_runner_image_and_pushed(
    container_engine: Engine, open_dir: Path, tmp_path: Path
) -> None:
    settings = settings_of(container_engine, runners={"system": f"{container_engine.registry}/{BUSYBOX}"})
    bench = ContainerBench(open_dir).with_containers(settings)
    await bench.engine.start()
    tree = write_tree(tmp_path, {"Procfile": "web: sh run.sh", "run.sh": "echo in $PWD as $(id -u); cat words.txt",
                                 "words.txt": "words of the slug\n"})  # fmt: skip
    outcome = await bench.build(tree, user=USER)
    manifest = await manifest_of(bench, outcome)

    assert manifest.app is not None and manifest.image is not None
    assert "@sha256:" in manifest.image.reference
    assert await run_image(container_engine, manifest.image.reference) == "in /app as 1000\nwords of the slug\n"


KEPT = InUse(services=frozenset({"0" * 16}))


async def two_builds(bench: Bench, engine: Engine, tmp_path: Path) -> tuple[BuildOutcome, BuildOutcome, list[str]]:
    """Two builds of a component, and their images."""
    made = []
    for number in (1, 2):
        tree = write_tree(tmp_path / str(number), {"Dockerfile": dockerfile(engine, f'CMD ["echo", "{number}"]')})
        made.append(await bench.build(tree, user=USER))
    images = [run.reference for each in made if (run := (await manifest_of(bench, each)).image)]
    return made[0], made[1], images


async def prune(bench: Bench, *kept: BuildOutcome, in_use: InUse = KEPT) -> Swept:
    artifacts = [each.artifact.digest for each in kept if each.artifact]
    return await bench.engine.prune(artifacts=artifacts, in_use=in_use, before=time.time() + 60)


async def test_the_image_of_a_pruned_release_leaves_the_registry_also_when_the_sweep_dies(
    bench: ContainerBench, container_engine: Engine, tmp_path: Path
) -> None:
    _, second, images = await two_builds(bench, container_engine, tmp_path)
    building = InUse(services=KEPT.services, building=frozenset({"t/a/web"}))
    waits = await prune(bench, second, in_use=building)
    assert (waits.images, waits.told) == (0, ""), "another attempt may be about to push the same"
    arm("builder-image-removed", "error")
    try:
        with pytest.raises(FailpointError):
            await prune(bench, second)
    finally:
        disarm("builder-image-removed")
    swept = await prune(bench, second)

    assert (swept.images, swept.told, swept.trouble) == (1, "", "")
    with pytest.raises(ImageNotFound):
        await resolve(parse_reference(images[0]))
    await resolve(parse_reference(images[1]))
    assert (await prune(bench, second)).images == 0


async def pushed_by_hand(registry: str, repository: str) -> str:
    """An image without layers in a registry that the engine does not know; its digest."""
    base = f"http://{registry}/v2/{repository}"
    config = b"{}"
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2, "mediaType": kind, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)},
    }  # fmt: skip
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{base}/blobs/uploads/") as begun:
            place = begun.headers["Location"]
        async with session.put(f"{place}&digest={digest}", data=config) as put:
            assert put.status == 201, await put.text()
        async with session.put(f"{base}/manifests/1", data=json.dumps(manifest), headers={"Content-Type": kind}) as put:
            assert put.status == 201, await put.text()
            return put.headers["Docker-Content-Digest"]


async def test_a_registry_that_deletes_nothing_is_told_once_and_its_images_stay_on_record(
    container_engine: Engine, open_dir: Path
) -> None:
    with running_registry(open_dir, deletes=False) as registry:
        bench = ContainerBench(open_dir).with_containers(settings_of(container_engine, registry=f"{registry}/rayfold"))
        await bench.engine.start()
        images = [
            f"{registry}/rayfold/t/a/{name}@{await pushed_by_hand(registry, f'rayfold/t/a/{name}')}"
            for name in ("web", "api")
        ]
        for image in images:
            manifest = Manifest(
                language="dockerfile", runtime="image", interpreter=None, app=None, deps=None, processes={},
                image=ImageRun(reference=image, command="x", port=None),
            )  # fmt: skip
            await put_manifest(bench.engine.store, manifest, scratch=open_dir)
        swept = await prune(bench)

        assert (swept.images, swept.removed, swept.trouble) == (0, 0, "")
        assert swept.told.count("REGISTRY_STORAGE_DELETE_ENABLED") == 1
        for image in images:
            await resolve(parse_reference(image))


async def test_without_a_registry_an_image_leaves_the_engine_and_with_its_component_the_cached_one(
    container_engine: Engine, open_dir: Path, tmp_path: Path
) -> None:
    bench = ContainerBench(open_dir).with_containers(settings_of(container_engine, registry=""))
    await bench.engine.start()
    engine = ContainerEngine(container_engine.address)
    _, second, images = await two_builds(bench, container_engine, tmp_path)
    assert (await prune(bench, second)).images == 1
    with pytest.raises(ImageNotFound):
        await engine.image(images[0])
    await engine.image(images[1])

    pushing = bench.with_containers(settings_of(container_engine))
    await pushing.build(write_tree(tmp_path / "3", {"Dockerfile": dockerfile(container_engine, 'CMD ["x"]')}))
    ours = {HOME_LABEL: str(bench.engine.dirs.work)}
    assert await engine.images(ours)
    await prune(pushing, in_use=InUse())
    assert await engine.images(ours) == []
