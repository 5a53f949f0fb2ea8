"""Runs pip into a plain directory that can be unpacked anywhere, and compiles what lies there.

It must not know where the list of requirements came from.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from actors.builder.interpreters import Interpreter
from actors.builder.languages.plan import Workbench
from actors.builder.tools import IndexSettings, install_pip


def index_parts(bench: Workbench) -> list[str]:
    """What of the build's environment changes what pip installs, for the key of a layer."""
    return [f"{name}={value}" for name, value in sorted(bench.request.env.items()) if name.startswith(("PIP_", "UV_"))]


async def pip_install(
    bench: Workbench,
    index: IndexSettings,
    python: Interpreter,
    arguments: Sequence[str],
    *,
    asked_by: str,
    local: bool = False,
) -> Path:
    """Install into a new directory and return it. Raises `StepFailedError`, `ToolMissingError`.

    `local` requirements are packages of the source itself, which build where they lie: they get a copy for that.
    """
    target = bench.make_directory("deps")
    pip = await asyncio.to_thread(install_pip, bench.tools)
    settings = {**await index.for_pip(python.path, pip), **bench.request.env}
    env = bench.environment(
        {
            **settings,
            "PYTHONPATH": str(pip),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_PROGRESS_BAR": "off",
        },
        path=[python.path.parent],
    )
    argv = [str(python.path), "-m", "pip", "install", "--no-compile", "--target", str(target), *arguments]
    failed = f"pip could not install what {asked_by} asks for"
    place = await bench.working_copy("try") if local else bench.root
    await bench.run(argv, cwd=place, env=env, code="dependencies_failed", failed=failed, network=True)
    await compile_tree(bench, python, target)
    return target


async def compile_tree(bench: Workbench, python: Interpreter, tree: Path) -> None:
    """Byte-compile for a read-only place: hash-based, so neither times nor this directory's name get in."""
    argv = [str(python.path), "-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    # A fixed hash seed: sets of strings inside constants are written in hash order.
    env = bench.environment({"PYTHONHASHSEED": "0"}, path=[python.path.parent])
    await bench.run(
        [*argv, "-s", str(tree), str(tree)],
        cwd=bench.work,
        env=env,
        code="compile_failed",
        failed="the source could not be compiled",
        accepted=(0, 1),  # a file that does not compile (a template, Python 2) is no failure: its import would say so
    )
