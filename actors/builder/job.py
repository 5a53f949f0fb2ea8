"""One build from source to artifact: fetch the source, see what it is, have it built.

Knows the order of these steps; it must not know how a source is built, how many builds run, or who waits.
"""

import asyncio
import os
from pathlib import Path

import msgspec

from actors.builder.access import Access, no_access
from actors.builder.archive import share_tree
from actors.builder.declared import Declared, read_declared
from actors.builder.detect import detect
from actors.builder.executor import Executor
from actors.builder.git import GitSource
from actors.builder.languages.plan import Workbench
from actors.builder.log import BuildLog
from actors.builder.model import Artifact, BuildRequest, ComponentSettings
from actors.builder.sources import FetchedSource, fetch
from actors.builder.svn import SvnSource


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
        executor: Executor,
        access: Access = no_access,
    ) -> None:
        self._request = request
        self._access = access
        self._uploads = dirs_uploads
        self._log = log
        self._executor = executor
        self.bench = Workbench(request=request, work=work, settings=ComponentSettings(), log=log, tools=tools)

    async def run(self) -> Artifact:
        """Run all steps. Raises a `BuilderError` for whatever ends the build without an artifact."""
        bench = self.bench
        for name in ("home", "tmp"):
            await asyncio.to_thread(bench.make_directory, name)
        if self._request.source.kind == "image":
            return msgspec.structs.replace(await self._executor.from_image(bench), steps=tuple(bench.times))
        async with bench.step("source"):
            source = await self._fetch()
        async with bench.step("detect"):
            declared = await self._read_files()
            found = await asyncio.to_thread(
                detect,
                bench.root,
                explicit=bench.settings.language,
                said_by=declared.language_from,
                engine=self._executor.builds_images,
            )
            await self._log.step(found.sentence[0].upper() + found.sentence[1:])
        artifact = await self._executor.build(bench, found, declared.procfile, source)
        return msgspec.structs.replace(artifact, steps=tuple(bench.times))

    async def _fetch(self) -> FetchedSource:
        request, bench = self._request, self.bench
        spec, work = request.source, bench.work
        where = spec.url if spec.kind == "git" else spec.path if spec.kind == "directory" else spec.digest[:12]
        asked = f" {spec.ref}" if spec.ref and spec.kind != "upload" else ""
        await self._log.step(f"Fetching the source: {spec.kind} {where[:200]}{asked}")
        git = GitSource(
            home=work, limits=request.limits, environ=os.environ, sink=self._log.output, access=self._access
        )
        svn = SvnSource(home=work, limits=request.limits, environ=os.environ, sink=self._log.output)
        source = await fetch(spec, uploads=self._uploads, into=bench.source, git=git, svn=svn, limits=request.limits)
        if source.commit:
            changed = ", with changes" if source.commit.endswith("-dirty") else ""
            await self._log.detail(f"commit {source.commit[:12]}{changed} by {source.author or 'nobody named'}")
        bench.root = source.root
        for note in source.notes:
            await bench.warn(note)
        # Read, not owned, by the build's user: no command of the build can change what was fetched.
        await asyncio.to_thread(share_tree, bench.source, request.user)
        return source

    async def _read_files(self) -> Declared:
        bench = self.bench
        declared = await asyncio.to_thread(read_declared, bench.root)
        bench.root, bench.settings = declared.root, declared.settings
        for warning in declared.warnings:
            await bench.warn(warning)
        return declared
