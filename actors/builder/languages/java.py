"""Runs Java archives that come ready-made: jars that name a main class, wars that do, and wars beside a container.

Nothing is compiled; it must not know how artifacts are stored.
"""

import asyncio
import hashlib
from pathlib import Path

from actors.builder.errors import DetectionError
from actors.builder.languages.jvm import RUNNER_JAR, find_java, is_executable, start_of
from actors.builder.languages.maven import fetch_runner, put_runner
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench


async def plan(bench: Workbench, archive: str) -> LanguagePlan:
    """How to run the archive of this name. Raises `DetectionError`, `ToolMissingError`."""
    java = await find_java(bench, least="8", said_by=archive)
    path = bench.root / archive
    if not path.is_file():  # build.language names the kind only
        path = await asyncio.to_thread(_only_archive, bench.root)

    async def start() -> str:
        return await asyncio.to_thread(start_of, path, path.name)

    async def install() -> Path:
        target = bench.make_directory("deps")
        await fetch_runner(bench, java, target)
        return target

    async def finish(layer: Path | None) -> None:
        assert layer is not None  # noqa: S101 - `finish_needs_layer`
        await asyncio.to_thread(put_runner, layer, bench)

    if path.suffix != ".war" or await asyncio.to_thread(is_executable, path):
        return LanguagePlan(runtime=java.runtime, interpreter=java.path, start=start)
    digest = hashlib.sha256(RUNNER_JAR.encode()).hexdigest()
    layer = LayerPlan(
        key_parts=("war", java.version, digest), lock_hash=digest, lock_file=archive, install=install, launch=False
    )
    return LanguagePlan(
        runtime=java.runtime,
        interpreter=java.path,
        start=start,
        layer=layer,
        finish=finish,
        finish_needs_layer=True,
    )


def _only_archive(root: Path) -> Path:
    found = [path for path in sorted(root.iterdir()) if path.suffix in (".jar", ".war")]
    if found:
        return found[0]
    raise DetectionError(
        "Expected a jar or war at the top of the source, found none. Put it there, or correct build.language.",
        code="no_start_command",
    )
