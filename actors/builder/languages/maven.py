"""Builds Java projects with Maven: what it downloads goes into a layer for building only, `package` makes the archive.

It must not know how artifacts are stored.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from actors.builder.archive import remove_tree
from actors.builder.errors import DetectionError, StepFailedError, ToolMissingError
from actors.builder.interpreters import Interpreter, find_program
from actors.builder.languages.beside import put_beside
from actors.builder.languages.jvm import RUNNER_JAR, archives_in, find_java, java_environment, start_of
from actors.builder.languages.plan import FETCHING, LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.texts import text_of

_POM = "pom.xml"
_TARGET = "target"
_RELEASE = re.compile(
    r"<(?:maven\.compiler\.(?:release|target|source)|java\.version|release|target)>\s*(?:1\.)?(\d+)\s*<"
)
_LEFT_OUT = frozenset({".git", "target", "node_modules"})
# The last of the line for the javax.servlet names.
_RUNNER = "com.heroku:webapp-runner:9.0.89.0"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
_PACKAGE = ("-DskipTests", "package")
_QUIET = ("-B", "-ntp", "-Dstyle.color=never")


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this Maven project. Raises `DetectionError`, `ToolMissingError`."""
    text = await asyncio.to_thread(text_of, bench.root, _POM)
    if not text:
        raise DetectionError(
            "Expected pom.xml; a pom in another notation (polyglot Maven) is not built here. Convert it to pom.xml.",
            code="pom_unread",
        )
    asked = _RELEASE.search(text)
    java = await find_java(bench, least=asked[1] if asked else "8", said_by=_POM)
    build = _MavenBuild(bench, java)
    poms = await asyncio.to_thread(_poms, bench.root)
    lock_hash = hashlib.sha256("\0".join(poms).encode()).hexdigest()
    layer = LayerPlan(
        key_parts=("maven", java.version, lock_hash, _RUNNER),
        lock_hash=lock_hash,
        lock_file=_POM,
        install=build.install,
        launch=False,
    )
    return LanguagePlan(
        runtime=java.runtime,
        interpreter=java.path,
        start=build.start,
        layer=layer,
        finish=build.finish,
        finish_needs_layer=True,
        start_after_finish=True,
    )


def _poms(root: Path) -> list[str]:
    """Text of every pom.xml of the tree (modules), in a fixed order, with its place. Blocking."""
    found: list[str] = []
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _LEFT_OUT)
        if _POM in files:
            place = Path(directory)
            found.append(f"{place.relative_to(root)}\0{text_of(place, _POM)}")
    return found


async def fetch_runner(bench: Workbench, java: Interpreter, layer: Path) -> None:
    """Download the servlet container for web archives to `layer`/runner, through Maven and its settings."""
    argv = [_COPY, f"-Dartifact={_RUNNER}", f"-DoutputDirectory={layer}/runner", "-Dmdep.stripVersion=true"]
    await run_maven(bench, java, argv, layer, "the servlet container could not be downloaded", network=True)


def put_runner(layer: Path, bench: Workbench) -> None:
    """Put the servlet container beside the application. Blocking."""
    runner = layer / "runner" / f"{_RUNNER.split(':')[1]}.jar"
    if (
        runner.is_symlink()
        or runner.parent.is_symlink()
        or runner.stat().st_uid != (bench.request.user or [os.getuid()])[0]
    ):
        raise StepFailedError("The servlet container that was downloaded is no file of the build.", code="foreign_file")
    put_beside(bench.root, runner, Path(RUNNER_JAR).name, bench.request.user)


async def run_maven(
    bench: Workbench,
    java: Interpreter,
    goals: Sequence[str],
    layer: Path,
    failed: str,
    *,
    network: bool = False,
    cwd: Path | None = None,
) -> None:
    """Run Maven with a repository inside `layer`, where the application lies or in `cwd`.

    Raises `StepFailedError`, `ToolMissingError` (maven_missing).
    """
    program = find_program("mvn", for_others=bench.for_others)
    if program is None:
        raise ToolMissingError(
            "Expected mvn for all users, found none. Install it on the builder's machine: apt-get install maven.",
            code="maven_missing",
        )
    # Java takes its home directory from the password file, where the build's user has none.
    home = bench.work / "home"
    options = f"-Duser.home={home} -Xmx1g"
    env = bench.environment({**java_environment(java), "MAVEN_OPTS": options}, path=[java.path.parent, program.parent])
    argv = [str(program), *_QUIET, f"-Dmaven.repo.local={layer / 'repository'}", *([] if network else ["-o"]), *goals]
    code = "dependencies_failed" if network else "compile_failed"
    await bench.run(argv, cwd=cwd or bench.root, env=env, code=code, failed=failed, network=network)


class _MavenBuild:
    """The steps of one Maven build, and what they share."""

    def __init__(self, bench: Workbench, java: Interpreter) -> None:
        self._bench = bench
        self._java = java

    async def install(self) -> Path:
        """Package once with the network: exactly what packaging needs is then in the layer."""
        target = self._bench.make_directory("deps")
        await self._fetch(target)
        return target

    async def _fetch(self, layer: Path) -> None:
        """What is packaged here is thrown away: it was made by a project that had the network."""
        copy = await self._bench.working_copy("try")
        failed = "Maven could not package the project"
        await run_maven(self._bench, self._java, _PACKAGE, layer, failed, network=True, cwd=copy)
        if await asyncio.to_thread(self._needs_runner, copy):
            await fetch_runner(self._bench, self._java, layer)

    @staticmethod
    def _archives(root: Path) -> list[Path]:
        """Archives of the project and of its modules, the likeliest first. Blocking."""
        places = [root, *sorted(path.parent for path in root.glob("*/pom.xml"))]
        return [path for place in places for path in archives_in(place / _TARGET)]

    def _needs_runner(self, root: Path) -> bool:
        made = self._archives(root)
        return bool(made) and made[0].suffix == ".war" and start_of(made[0], "x").find(RUNNER_JAR) >= 0

    async def finish(self, layer: Path | None) -> None:
        """Package without the network; only archives are left of what it made."""
        assert layer is not None  # noqa: S101 - `finish_needs_layer`
        await self._package(layer)
        if await asyncio.to_thread(self._needs_runner, self._bench.root):
            await asyncio.to_thread(put_runner, layer, self._bench)
        await asyncio.to_thread(self._tidy)

    async def _package(self, layer: Path) -> None:
        bench = self._bench
        await bench.log.step("Packaging: mvn package")
        failed = "Maven could not package the project"
        try:
            await run_maven(bench, self._java, _PACKAGE, layer, failed)
        except StepFailedError as error:
            if not any("offline" in line.lower() for line in error.lines):
                raise
            await bench.warn("the source needs plugins or libraries that pom.xml does not name alone: fetched again")
            async with bench.step(FETCHING):
                await self._fetch(layer)
            await run_maven(bench, self._java, _PACKAGE, layer, failed)

    def _tidy(self) -> None:
        for target in self._bench.root.rglob(_TARGET):
            for path in target.iterdir() if target.is_dir() and not target.is_symlink() else []:
                if path.is_dir() and not path.is_symlink():
                    remove_tree(path)

    async def start(self) -> str:
        """Start the likeliest archive. Raises `DetectionError`."""

        def choose() -> str:
            made = self._archives(self._bench.root)
            if not made:
                raise DetectionError(
                    "Expected an archive in target/ after `mvn package`, found none. Set <packaging> to jar or war in "
                    "pom.xml, or add a Procfile with `web: COMMAND`.",
                    code="no_start_command",
                )
            return start_of(made[0], str(made[0].relative_to(self._bench.root)))

        return await asyncio.to_thread(choose)
