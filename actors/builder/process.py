"""The process executor: builds a source with the machine's own tools, as commands of the application's user.

Each is in the cage of `sandbox.py`. The fetched source is the platform's and stays as it is: what has to write gets a
copy, thrown away after dependencies were fetched, published after the build step. It must not know queues or events.
"""

import asyncio
import os
import platform
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

from actors.builder.archive import chown_tree
from actors.builder.artifacts import ArtifactStore, BlobRef, Manifest, put_bytes, put_layer, put_manifest
from actors.builder.cache import LayerCache, cache_key
from actors.builder.declared import PROCFILE
from actors.builder.detect import DOCKERFILE, Detection
from actors.builder.errors import DetectionError
from actors.builder.executor import engine_missing
from actors.builder.languages import go, gradle, java, maven, node, php, python, ruby, static
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.model import Artifact
from actors.builder.packages import Package, installed_in
from actors.builder.procfile import RELEASE, Procfile
from actors.builder.retention import ImagesGone, InUse
from actors.builder.sbom import sbom
from actors.builder.settings import FILE as SETTINGS_FILE
from actors.builder.sources import FetchedSource
from actors.builder.tools import IndexSettings
from actors.builder.unpack import extract_layer
from events.failpoints import failpoint

_NOT_PACKED = frozenset({".git"})

Wrap = Callable[[Workbench, Manifest], Awaitable[Manifest]]
"""What else is made of a slug before its manifest is stored."""


class _Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """`layer` is what the artifact refers to: None also when the layer serves building only."""

    layer: BlobRef | None = None
    cache_hit: bool = False
    directory: Path | None = None
    packages: tuple[Package, ...] = ()


async def _as_it_is(_: Workbench, slug: Manifest) -> Manifest:
    return slug


class ProcessExecutor:
    """An `Executor` that needs the tools of the languages only; `wrap` is shown each slug before it is stored."""

    builds_images = False

    def __init__(self, *, store: ArtifactStore, cache: LayerCache, wrap: Wrap = _as_it_is) -> None:
        self._store = store
        self._cache = cache
        self._index = IndexSettings()
        self._wrap = wrap

    async def sweep(self) -> None:
        """Nothing outlives a builder here: its commands end with it, and the engine removes its directories."""

    async def prune(self, images: Collection[str], *, in_use: InUse, before: float) -> ImagesGone:
        """Nothing: images that are on record were made while there was an engine, and wait for it."""
        return ImagesGone()

    async def from_image(self, bench: Workbench) -> Artifact:
        """Refuses (`ContainerError`, engine_missing)."""
        raise engine_missing("deploy a source instead of an image")

    async def build(self, bench: Workbench, found: Detection, procfile: Procfile, source: FetchedSource) -> Artifact:
        """Plan, install what the source needs, build it and store the slug. Raises `BuilderError`."""
        if found.language == DOCKERFILE:
            raise engine_missing("set build.language in rayfold.toml to a language")
        async with bench.step("plan"):
            plan = await self._plan(bench, found)
            processes = {} if plan.start_after_finish else await self._processes(bench, procfile, plan)
        dependencies = _Dependencies()
        if plan.layer is not None or plan.prepare is not None:
            async with bench.step("dependencies"):
                if plan.prepare is not None:
                    await plan.prepare()
                if plan.layer is not None:
                    dependencies = await self._dependencies(bench, plan.layer, needed=plan.finish_needs_layer)
        if plan.finish is not None:
            async with bench.step("build"):
                await bench.begin_building()
                await plan.finish(dependencies.directory)
                processes = processes or await self._processes(bench, procfile, plan)
        async with bench.step("publish", "Storing the artifact"):
            failpoint("builder-publish")
            artifact = await self._publish(bench, found, plan, procfile, processes, dependencies, source)
            await bench.log.detail(f"{artifact.digest[:12]}, {artifact.size_bytes} bytes")
            return artifact

    async def _plan(self, bench: Workbench, found: Detection) -> LanguagePlan:
        index = self._index
        match found.language:
            case "python":
                return await python.plan(bench, index)
            case "node":
                return await node.plan(bench, index)
            case "static":
                return await static.plan(bench)
            case "go":
                return await go.plan(bench)
            case "java-maven":
                return await maven.plan(bench)
            case "java-gradle":
                return await gradle.plan(bench)
            case "java-jar" | "java-war":
                return await java.plan(bench, found.because)
            case "php":
                return await php.plan(bench)
            case "ruby":
                return await ruby.plan(bench)

        async def no_start() -> str:
            raise DetectionError("Expected a process in the Procfile, found none.", code="no_start_command")

        return LanguagePlan(runtime="system", interpreter=None, start=no_start)

    async def _processes(self, bench: Workbench, procfile: Procfile, plan: LanguagePlan) -> dict[str, str]:
        """Procfile, else rayfold.toml's [processes], else what the language starts by default as `web`."""
        if procfile.processes:
            processes, origin = dict(procfile.processes), PROCFILE
        elif named := {name: text for name, text in bench.settings.processes.items() if name != RELEASE}:
            processes, origin = named, SETTINGS_FILE
        else:
            processes, origin = {"web": await plan.start()}, "found in the source"
        await bench.log.detail(*(f"{name}: {command} ({origin})" for name, command in processes.items()))
        return processes

    async def _dependencies(self, bench: Workbench, layer: LayerPlan, *, needed: bool) -> _Dependencies:
        key = cache_key(bench.request.team, platform.machine(), *layer.key_parts)
        if not bench.request.fresh:
            looked = await self._cache.get(key)
            if looked.problem is not None:
                await bench.warn(f"the cached layer for {layer.lock_file} is not used: {looked.problem}")
            if looked.layer is not None:
                await bench.log.step(f"Dependencies unchanged ({layer.lock_file}): the cached layer is used")
                directory = await self._unpack_for_build(bench, looked.layer) if needed else None
                launched = looked.layer if layer.launch else None
                packages = looked.packages if layer.launch else ()
                return _Dependencies(layer=launched, cache_hit=True, directory=directory, packages=packages)
        await bench.log.step(f"Installing dependencies ({layer.lock_file})")
        directory = await layer.install()
        failpoint("builder-dependencies-installed")
        limits = bench.request.limits
        stored = await put_layer(
            self._store,
            directory,
            scratch=bench.work,
            owner=bench.owner,
            limit_bytes=limits.artifact_bytes,
            skip=_NOT_PACKED,
        )
        packages = tuple(await asyncio.to_thread(installed_in, directory)) if layer.launch else ()
        await self._cache.put(key, stored, packages)
        return _Dependencies(layer=stored if layer.launch else None, directory=directory, packages=packages)

    async def _unpack_for_build(self, bench: Workbench, layer: BlobRef) -> Path:
        """A private, writable copy of a cached layer: a build script may write into node_modules."""
        archive = await self._store.local_path(layer.digest)
        target = bench.make_directory("deps")
        await asyncio.to_thread(extract_layer, archive, target)
        await asyncio.to_thread(chown_tree, target, bench.request.user)
        return target

    async def _publish(
        self,
        bench: Workbench,
        found: Detection,
        plan: LanguagePlan,
        procfile: Procfile,
        processes: dict[str, str],
        dependencies: _Dependencies,
        source: FetchedSource,
    ) -> Artifact:
        app = await put_layer(
            self._store,
            bench.root,
            scratch=bench.work,
            owner=bench.owner if plan.finish is not None else os.getuid(),
            limit_bytes=bench.request.limits.artifact_bytes,
            skip=_NOT_PACKED,
        )
        packages = [*dependencies.packages, *await asyncio.to_thread(installed_in, bench.root), *await plan.packages()]
        bill = await put_bytes(
            self._store, sbom(packages, language=found.language, runtime=plan.runtime), scratch=bench.work
        )
        manifest = Manifest(
            language=found.language,
            runtime=plan.runtime,
            interpreter=str(plan.interpreter) if plan.interpreter else None,
            app=app,
            deps=dependencies.layer,
            links=plan.layer.links if plan.layer and plan.layer.launch else {},
            processes=processes,
            release_command=procfile.release or bench.settings.processes.get(RELEASE),
            env=plan.env,
            sbom=bill,
        )
        manifest = await self._wrap(bench, manifest)
        blob = await put_manifest(self._store, manifest, scratch=bench.work)
        return Artifact(
            digest=blob.digest,
            size_bytes=app.size_bytes + (dependencies.layer.size_bytes if dependencies.layer else 0),
            processes=processes,
            release_command=manifest.release_command,
            language=found.language,
            runtime=plan.runtime,
            detected=found.sentence,
            also_saw=found.also_saw,
            source_commit=source.commit,
            source_author=source.author,
            lock_hash=plan.layer.lock_hash if plan.layer else None,
            settings=bench.settings,
            cache_hit=dependencies.cache_hit,
            warnings=tuple(bench.warnings),
        )
