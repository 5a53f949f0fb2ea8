"""One build from source to artifact, step by step.

Knows the order of the steps and what each leaves; it must not know how many builds run, or who waits.
"""

import asyncio
import os
import platform
from pathlib import Path

import msgspec

from actors.builder.access import Access, no_access
from actors.builder.archive import chown_tree
from actors.builder.artifacts import ArtifactStore, BlobRef, Manifest, put_bytes, put_layer, put_manifest
from actors.builder.cache import LayerCache, cache_key
from actors.builder.declared import PROCFILE, Declared, read_declared
from actors.builder.detect import DOCKERFILE, Detection, detect
from actors.builder.errors import DetectionError
from actors.builder.git import GitSource
from actors.builder.images import ContainerExecutor, engine_missing
from actors.builder.languages import go, gradle, java, maven, node, php, python, ruby, static
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.log import BuildLog
from actors.builder.model import Artifact, BuildRequest, ComponentSettings
from actors.builder.packages import Package, installed_in
from actors.builder.procfile import RELEASE, Procfile
from actors.builder.sbom import sbom
from actors.builder.settings import FILE as SETTINGS_FILE
from actors.builder.sources import FetchedSource, fetch
from actors.builder.svn import SvnSource
from actors.builder.tools import IndexSettings
from actors.builder.unpack import extract_layer
from events.failpoints import failpoint

_NOT_PACKED = frozenset({".git"})


class _Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """`layer` is what the artifact refers to: None also when the layer serves building only."""

    layer: BlobRef | None = None
    cache_hit: bool = False
    directory: Path | None = None
    packages: tuple[Package, ...] = ()


class BuildJob:
    """The steps of one build. `bench` shows where it is."""

    def __init__(
        self,
        request: BuildRequest,
        *,
        work: Path,
        dirs_uploads: Path,
        tools: Path,
        log: BuildLog,
        store: ArtifactStore,
        cache: LayerCache,
        index: IndexSettings,
        containers: ContainerExecutor | None = None,
        access: Access = no_access,
    ) -> None:
        self._request = request
        self._access = access
        self._work = work
        self._uploads = dirs_uploads
        self._log = log
        self._store = store
        self._cache = cache
        self._index = index
        self._containers = containers
        self.bench = Workbench(
            request=request, work=work, root=work / "src", settings=ComponentSettings(), log=log, tools=tools
        )

    async def run(self) -> Artifact:
        """Run all steps. Raises a `BuilderError` for whatever ends the build without an artifact."""
        bench = self.bench
        for name in ("home", "tmp"):
            await asyncio.to_thread(bench.make_directory, name)
        if self._request.source.kind == "image":
            if self._containers is None:
                raise engine_missing("deploy a source instead of an image")
            return msgspec.structs.replace(await self._containers.from_image(bench), steps=tuple(bench.times))
        async with bench.step("source"):
            source = await self._fetch()
        async with bench.step("detect"):
            declared = await self._read_files()
            procfile, explicit = declared.procfile, bench.settings.language
            engine = self._containers is not None
            found = await asyncio.to_thread(
                detect, bench.root, explicit=explicit, said_by=declared.language_from, engine=engine
            )
            await self._log.step(found.sentence[0].upper() + found.sentence[1:])
        if found.language == DOCKERFILE:
            if self._containers is None:
                raise engine_missing("set build.language in rayfold.toml to a language")
            artifact = await self._containers.from_dockerfile(bench, found, procfile, source)
            return msgspec.structs.replace(artifact, steps=tuple(bench.times))
        async with bench.step("plan"):
            plan = await self._plan(found)
            processes = {} if plan.start_after_finish else await self._processes(procfile, plan)
        dependencies = _Dependencies()
        if plan.layer is not None:
            async with bench.step("dependencies"):
                dependencies = await self._dependencies(plan.layer, needed=plan.finish_needs_layer)
        if plan.finish is not None:
            async with bench.step("build"):
                await plan.finish(dependencies.directory)
                processes = processes or await self._processes(procfile, plan)
        async with bench.step("publish", "Storing the artifact"):
            failpoint("builder-publish")
            artifact = await self._publish(found, plan, procfile, processes, dependencies, source)
            await self._log.detail(f"{artifact.digest[:12]}, {artifact.size_bytes} bytes")
        return msgspec.structs.replace(artifact, steps=tuple(bench.times))

    async def _fetch(self) -> FetchedSource:
        request, bench = self._request, self.bench
        spec = request.source
        where = spec.url if spec.kind == "git" else spec.path if spec.kind == "directory" else spec.digest[:12]
        asked = f" {spec.ref}" if spec.ref and spec.kind != "upload" else ""
        await self._log.step(f"Fetching the source: {spec.kind} {where[:200]}{asked}")
        git = GitSource(
            home=self._work, limits=request.limits, environ=os.environ, sink=self._log.output, access=self._access
        )
        svn = SvnSource(home=self._work, limits=request.limits, environ=os.environ, sink=self._log.output)
        source = await fetch(
            spec, uploads=self._uploads, into=self._work / "src", git=git, svn=svn, limits=request.limits
        )
        if source.commit:
            changed = ", with changes" if source.commit.endswith("-dirty") else ""
            await self._log.detail(f"commit {source.commit[:12]}{changed} by {source.author or 'nobody named'}")
        bench.root = source.root
        for note in source.notes:
            await bench.warn(note)
        await asyncio.to_thread(chown_tree, self._work / "src", request.user)
        return source

    async def _read_files(self) -> Declared:
        bench = self.bench
        declared = await asyncio.to_thread(read_declared, bench.root)
        bench.root, bench.settings = declared.root, declared.settings
        for warning in declared.warnings:
            await bench.warn(warning)
        return declared

    async def _plan(self, found: Detection) -> LanguagePlan:
        bench, index = self.bench, self._index
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

    async def _processes(self, procfile: Procfile, plan: LanguagePlan) -> dict[str, str]:
        """Procfile, else rayfold.toml's [processes], else what the language starts by default as `web`."""
        if procfile.processes:
            processes, origin = dict(procfile.processes), PROCFILE
        elif named := {name: text for name, text in self.bench.settings.processes.items() if name != RELEASE}:
            processes, origin = named, SETTINGS_FILE
        else:
            processes, origin = {"web": await plan.start()}, "found in the source"
        await self._log.detail(*(f"{name}: {command} ({origin})" for name, command in processes.items()))
        return processes

    async def _dependencies(self, layer: LayerPlan, *, needed: bool) -> _Dependencies:
        key = cache_key(self._request.team, platform.machine(), *layer.key_parts)
        if not self._request.fresh:
            looked = await self._cache.get(key)
            if looked.problem is not None:
                await self.bench.warn(f"the cached layer for {layer.lock_file} is not used: {looked.problem}")
            if looked.layer is not None:
                await self._log.step(f"Dependencies unchanged ({layer.lock_file}): the cached layer is used")
                directory = await self._unpack_for_build(looked.layer) if needed else None
                launched = looked.layer if layer.launch else None
                packages = looked.packages if layer.launch else ()
                return _Dependencies(layer=launched, cache_hit=True, directory=directory, packages=packages)
        await self._log.step(f"Installing dependencies ({layer.lock_file})")
        directory = await layer.install()
        failpoint("builder-dependencies-installed")
        limits = self._request.limits
        stored = await put_layer(
            self._store,
            directory,
            scratch=self._work,
            owner=self._owner,
            limit_bytes=limits.artifact_bytes,
            skip=_NOT_PACKED,
        )
        packages = tuple(await asyncio.to_thread(installed_in, directory)) if layer.launch else ()
        await self._cache.put(key, stored, packages)
        return _Dependencies(layer=stored if layer.launch else None, directory=directory, packages=packages)

    async def _unpack_for_build(self, layer: BlobRef) -> Path:
        """A private, writable copy of a cached layer: a build script may write into node_modules."""
        archive = await self._store.local_path(layer.digest)
        target = self.bench.make_directory("deps")
        await asyncio.to_thread(extract_layer, archive, target)
        await asyncio.to_thread(chown_tree, target, self._request.user)
        return target

    @property
    def _owner(self) -> int:
        return self._request.user[0] if self._request.user else os.getuid()

    async def _publish(
        self,
        found: Detection,
        plan: LanguagePlan,
        procfile: Procfile,
        processes: dict[str, str],
        dependencies: _Dependencies,
        source: FetchedSource,
    ) -> Artifact:
        bench, request = self.bench, self._request
        app = await put_layer(
            self._store,
            bench.root,
            scratch=self._work,
            owner=self._owner,
            limit_bytes=request.limits.artifact_bytes,
            skip=_NOT_PACKED,
        )
        packages = [*dependencies.packages, *await asyncio.to_thread(installed_in, bench.root), *await plan.packages()]
        bill = await put_bytes(
            self._store, sbom(packages, language=found.language, runtime=plan.runtime), scratch=self._work
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
        if self._containers is not None:
            manifest = msgspec.structs.replace(manifest, image=await self._containers.wrap(bench, manifest))
        blob = await put_manifest(self._store, manifest, scratch=self._work)
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
