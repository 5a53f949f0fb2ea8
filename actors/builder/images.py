"""The container executor: what a build does with an engine, beside what it does with commands of its own.

A Dockerfile is built, an image is looked at, a slug is put on a runner image; the result is named by digest and bears
the build's and the platform's labels. Knows the engine and the registry, nothing of queues or events.
"""

import asyncio
import json
import os
import shlex
import sys
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zstandard

from actors.builder.artifacts import FOREIGN, ArtifactStore, ImageRun, Manifest, put_manifest
from actors.builder.cache import LayerCache
from actors.builder.detect import DOCKERFILE, Detection, dockerfiles
from actors.builder.errors import ContainerError, DetectionError, StepFailedError
from actors.builder.image_build import EXIT_ENGINE
from actors.builder.image_retention import remove_images
from actors.builder.image_steps import VARIABLE, end_steps, mark
from actors.builder.languages.plan import Workbench
from actors.builder.model import IMAGE, Artifact
from actors.builder.process import ProcessExecutor
from actors.builder.procfile import RELEASE, Procfile
from actors.builder.retention import ImagesGone, InUse
from actors.builder.sandbox import run_command
from actors.builder.sources import FetchedSource
from actors.builder.unpack import environment_of
from actors.containers.engine import (
    API_VERSION,
    BUILD_LABEL,
    HOME_LABEL,
    SERVICE_LABEL,
    ContainerEngine,
    ImageFacts,
)
from actors.containers.errors import ContainerFault, ImageNotFound
from actors.containers.reference import ImageReference, parse_reference
from actors.containers.registry import resolve
from actors.containers.settings import ContainerSettings
from events.failpoints import failpoint

WEB = "web"
_MIB = 1024 * 1024
_PROGRAM = Path(__file__).with_name("image_build.py")
_LOOK_AGAIN_SECONDS = (0.2, 0.5, 1.0)
_RUNS_AS = "1000:1000"  # of a slug's image; what it writes goes to /tmp


def choose_dockerfile(root: Path, wanted: str | None) -> tuple[str, tuple[str, ...]]:
    """The Dockerfile to build and the others that are there: `wanted`, else `Dockerfile`, else the only one. Blocking.

    Raises `DetectionError` (dockerfile_missing, dockerfile_ambiguous) that lists what is there.
    """
    found = dockerfiles(root)
    told = ", ".join(found) or "none"
    if wanted is not None:
        path = root / wanted
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            raise DetectionError(
                f"rayfold.toml asks for the Dockerfile {wanted!r}, which is no file of the source; found: {told}. "
                "Correct build.dockerfile.",
                code="dockerfile_missing",
            )
        return wanted, tuple(name for name in found if name != wanted)
    usable = [name for name in found if not (root / name).is_symlink()]
    if not usable:
        raise DetectionError(
            "Expected a Dockerfile at the top or one directory below, found none. Add one, or name it in rayfold.toml: "
            '[build] dockerfile = "PATH".',
            code="dockerfile_missing",
        )
    if "Dockerfile" in usable or len(usable) == 1:
        chosen = "Dockerfile" if "Dockerfile" in usable else usable[0]
        return chosen, tuple(name for name in found if name != chosen)
    raise DetectionError(
        f'Expected one Dockerfile, found {told}. Choose one in rayfold.toml: [build] dockerfile = "{usable[0]}".',
        code="dockerfile_ambiguous",
    )


class ContainerExecutor:
    """An `Executor` that has the engine at `settings.engine`; slugs it has built by a `ProcessExecutor`.

    `home`, the directory of the builds' own directories, tells one platform's images from another's.
    """

    builds_images = True

    def __init__(self, settings: ContainerSettings, *, home: str, store: ArtifactStore, cache: LayerCache) -> None:
        self._settings = settings
        self._engine = ContainerEngine(settings.engine)
        self._home = home
        self._store = store
        self._slugs = ProcessExecutor(store=store, cache=cache, wrap=self._wrap)

    async def sweep(self) -> None:
        """End the steps, and remove the images, of builds that are over and were never ended. Raises `ContainerFault`.

        Call it when the work directories of dead builds are gone: `home` holds those of the living ones.
        """
        await asyncio.to_thread(end_steps, self._home, lambda build_id: not (Path(self._home) / build_id).exists())
        for image in await self._engine.images({HOME_LABEL: self._home}):
            if not image.names or all("<none>" in name for name in image.names):
                await self._engine.remove_image(image.id)

    async def prune(self, images: Collection[str], *, in_use: InUse, before: float) -> ImagesGone:
        """See `Executor.prune`: from the registry, and from this machine's engine."""
        images = set(images) - in_use.images
        return await remove_images(self._settings, self._engine, images, home=self._home, in_use=in_use, before=before)

    async def build(self, bench: Workbench, found: Detection, procfile: Procfile, source: FetchedSource) -> Artifact:
        """Build the source's Dockerfile, or a slug. Raises `BuilderError`."""
        if found.language != DOCKERFILE:
            return await self._slugs.build(bench, found, procfile, source)
        wanted = bench.settings.dockerfile
        dockerfile, others = await asyncio.to_thread(choose_dockerfile, bench.root, wanted)
        if others:
            await bench.log.detail(f"also there: {', '.join(others)} (build.dockerfile in rayfold.toml chooses)")
        async with bench.step("image", f"Building {dockerfile}"):
            local = await self._build(bench, bench.root, dockerfile)
        async with bench.step("publish", "Storing the image"):
            failpoint("builder-image-built")
            facts, reference = await self._publish(bench, local)
            return await self._artifact(
                bench, reference=reference, facts=facts, procfile=procfile, language="dockerfile",
                detected=found.sentence, also_saw=found.also_saw, source=source,
            )  # fmt: skip

    async def from_image(self, bench: Workbench) -> Artifact:
        """Take an image of a registry as it is; `source.url` names it by digest. Raises `BuilderError`."""
        spec = bench.request.source
        with _told():
            reference = parse_reference(spec.url)
            if not reference.digest:
                raise ImageNotFound(f"Expected an image by digest, found {spec.url}. Deploy it again.")
            asked = f"{spec.ref} is " if spec.ref else ""
            async with bench.step("image", f"Fetching the image: {asked}{reference}"):
                await self._engine.pull(reference)
                facts = await self._engine.image(str(reference))
        async with bench.step("publish", "Storing what runs it"):
            return await self._artifact(
                bench, reference=str(reference), facts=facts, procfile=Procfile(), language=FOREIGN,
                detected=f"image {reference}", also_saw=(), source=FetchedSource(root=bench.root),
            )  # fmt: skip

    async def _wrap(self, bench: Workbench, slug: Manifest) -> Manifest:
        """Put a slug on the runner image that is named for its runtime, and push it; as it is where none is named."""
        runner = self._settings.runner_for(slug.runtime)
        if runner is None:
            return slug
        await bench.log.step(f"Putting the slug on {runner}")
        context = bench.make_directory("image")
        await self._lay_out(context, slug, runner)
        local = await self._build(bench, context, "Dockerfile")
        facts, reference = await self._publish(bench, local)
        run = ImageRun(reference=reference, command=shlex.join(facts.command), port=facts.port)
        return msgspec.structs.replace(slug, image=run)

    async def _lay_out(self, context: Path, slug: Manifest, runner: str) -> None:
        """A context of the stored layers themselves: the image holds what the artifact holds, byte for byte."""
        lines = [f"FROM {parse_reference(runner)}"]
        for name, layer in (("deps", slug.deps), ("app", slug.app)):
            if layer is not None:
                stored = await self._store.local_path(layer.digest)
                await asyncio.to_thread(_unpacked, stored, context / f"{name}.tar")
                lines.append(f"ADD {name}.tar /{name}/")
        if slug.links and slug.deps is not None:
            await asyncio.to_thread(_write_links, context / "links.tar", slug.links)
            lines.append("ADD links.tar /app/")
        env = {**environment_of(slug, Path("/")), "HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - in the image
        lines += [f"ENV {name}={json.dumps(value)}" for name, value in sorted(env.items())]
        command = slug.processes.get(WEB) or next(iter(slug.processes.values()))
        lines += ["WORKDIR /app", f"USER {_RUNS_AS}", f"CMD {json.dumps(['/bin/sh', '-c', command])}", ""]
        await asyncio.to_thread((context / "Dockerfile").write_text, "\n".join(lines))

    async def _build(self, bench: Workbench, root: Path, dockerfile: str) -> ImageReference:
        request = bench.request
        local = ImageReference(host="localhost", repository=f"rayfold/{request.service_id}",
                               tag=request.build_id)  # fmt: skip
        asked = {
            "engine": self._settings.engine,
            "version": API_VERSION,
            "root": str(root),
            "dockerfile": dockerfile,
            "tag": str(local),
            "labels": {
                HOME_LABEL: self._home,
                BUILD_LABEL: request.build_id,
                SERVICE_LABEL: request.service_id,
            },
            "memory_bytes": self._settings.build_memory_mib * _MIB,
            "timeout_seconds": request.timeout_seconds,
            "fresh": request.fresh,
            "buildargs": {VARIABLE: mark(self._home, request.build_id)},
        }
        order = bench.work / "image.json"
        await asyncio.to_thread(order.write_text, json.dumps(asked))
        env = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "DOCKER_CONFIG", "LANG")}
        ended = False
        try:
            status = await run_command(
                [sys.executable, "-I", str(_PROGRAM), str(order)], cwd=bench.work, env=env, limits=request.limits,
                user=None, sink=bench.log.output,
            )  # fmt: skip
            ended = True
        finally:
            if not ended:
                await asyncio.shield(self._end_steps(request.build_id))
        lines = bench.log.lines_that_matter()
        if status == EXIT_ENGINE:
            told = bench.log.recent()[-1:] or ["it said nothing"]
            raise ContainerError(
                f"The container engine ended the build of {dockerfile}: {told[0]}. Check that it runs.",
                code="engine_failed",
                lines=lines,
            )
        if status != 0:
            raise StepFailedError(
                f"{dockerfile} does not build. Correct what these lines name (an image in FROM must be one that the "
                "platform's machine can pull), and deploy again.",
                code="dockerfile_failed",
                lines=lines,
            )
        return local

    async def _end_steps(self, build_id: str) -> None:
        """More than once: a step that was just about to begin bears its mark a moment later."""
        for pause in (0.0, *_LOOK_AGAIN_SECONDS):
            await asyncio.sleep(pause)
            await asyncio.to_thread(end_steps, self._home, lambda each: each == build_id)

    async def _publish(self, bench: Workbench, local: ImageReference) -> tuple[ImageFacts, str]:
        """Push what was built, if there is a registry; what it is, and the name by which a node finds it."""
        request = bench.request
        with _told():
            facts = await self._engine.image(str(local))
            if not self._settings.registry:
                await bench.log.detail(f"image {facts.id} (no registry: only this machine has it)")
                return facts, facts.id
            pushed = parse_reference(
                f"{self._settings.registry}/{request.team}/{request.app}/{request.component}:{local.tag}"
            )
            await self._engine.tag(str(local), pushed)
            await bench.log.detail(f"pushing {pushed}")
            await self._engine.push(pushed)
            failpoint("builder-image-pushed")
            pinned = str(await resolve(pushed))
            # One image for each component stays here: its layers are the next build's cache.
            await self._engine.tag(str(local), msgspec.structs.replace(local, tag="latest"))
            await self._engine.remove_image(str(pushed))
            await self._engine.remove_image(str(local))
            await bench.log.detail(f"image {pinned}")
            return facts, pinned

    async def _artifact(
        self,
        bench: Workbench,
        *,
        reference: str,
        facts: ImageFacts,
        procfile: Procfile,
        language: str,
        detected: str,
        also_saw: tuple[str, ...],
        source: FetchedSource,
    ) -> Artifact:
        said = {name: text for name, text in bench.settings.processes.items() if name != RELEASE}
        command = shlex.join(facts.command)
        processes = dict(procfile.processes) or said or ({WEB: command} if command else {})
        if not processes:
            raise DetectionError(
                "The image says nothing of what to start: expected CMD or ENTRYPOINT in it, or a Procfile beside the "
                "Dockerfile (`web: COMMAND`).",
                code="no_start_command",
            )
        release = procfile.release or bench.settings.processes.get(RELEASE)
        run = ImageRun(reference=reference, command=command, port=bench.settings.port or facts.port)
        manifest = Manifest(
            language=language, runtime=IMAGE, interpreter=None, app=None, deps=None, image=run,
            processes=processes, release_command=release,
        )  # fmt: skip
        blob = await put_manifest(self._store, manifest, scratch=bench.work)
        await bench.log.detail(*(f"{name}: {text}" for name, text in processes.items()))
        await bench.log.detail(f"{blob.digest[:12]}, an image of {facts.size_bytes} bytes")
        return Artifact(
            digest=blob.digest,
            size_bytes=facts.size_bytes,
            processes=processes,
            release_command=release,
            language=language,
            runtime=IMAGE,
            detected=detected,
            also_saw=also_saw,
            source_commit=source.commit,
            source_author=source.author,
            settings=msgspec.structs.replace(bench.settings, port=run.port),
            warnings=tuple(bench.warnings),
        )


@contextmanager
def _told() -> Iterator[None]:
    """Says what containers refuse as the builder says what it refuses."""
    try:
        yield
    except ContainerFault as error:
        raise ContainerError(str(error), code=error.code) from error


def _unpacked(stored: Path, target: Path) -> None:
    with stored.open("rb") as raw, target.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(raw, out)


def _write_links(path: Path, links: dict[str, str]) -> None:
    with tarfile.open(path, "w") as archive:
        for place, target in sorted(links.items()):
            entry = tarfile.TarInfo(place)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"/deps/{target}"
            archive.addfile(entry)
