"""Installs from the lock files of uv, poetry and pipenv: each tool's own export, with hashes, then pip.

The tools judge whether the lock still follows from the project; this must not know how artifacts are stored.
"""

import asyncio
import re
from pathlib import Path

import msgspec

from actors.builder.errors import DetectionError, StepFailedError
from actors.builder.interpreters import Interpreter
from actors.builder.languages.beside import write_new
from actors.builder.languages.plan import LayerPlan, Workbench
from actors.builder.languages.python_pip import index_parts, pip_install
from actors.builder.languages.texts import text_of
from actors.builder.tools import IndexSettings, PythonTool, install_pip, install_python_tool

_EXPORTED = "requirements.locked.txt"
# A line of requirements, or another index than the default one, which the machine's own setting replaces.
_REQUIREMENT = re.compile(
    r"^(?:[A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?\s*(?:==|@)|(?:-i|--extra-index-url) (?!https://pypi\.org/))"
)


class _Manager(msgspec.Struct, frozen=True, kw_only=True):
    """A tool: how it is installed, how it checks the lock, how it writes requirements, and how one locks again.

    `export` may hold {out}; a tool without it writes to standard output, which `stdout` says.
    """

    tool: PythonTool
    check: tuple[str, ...]
    export: tuple[str, ...]
    again: str
    beside: str
    stdout: bool = False


LOCKS = {
    "uv.lock": _Manager(
        tool=PythonTool(name="uv", packages=("uv==0.13.9",), module="uv"),
        check=(),  # `--locked` of the export checks
        export=(
            "export",
            "--locked",
            "--no-dev",
            "--no-emit-project",
            "--no-header",
            "--quiet",
            "--format",
            "requirements-txt",
            "--output-file",
            "{out}",
        ),
        again="uv lock",
        beside="pyproject.toml",
    ),
    "poetry.lock": _Manager(
        tool=PythonTool(name="poetry", packages=("poetry==2.5.1", "poetry-plugin-export==1.10.1"), module="poetry"),
        check=("check", "--lock", "--no-interaction"),
        export=("export", "--only", "main", "--format", "requirements.txt", "--no-interaction", "--output", "{out}"),
        again="poetry lock",
        beside="pyproject.toml",
    ),
    "Pipfile.lock": _Manager(
        tool=PythonTool(name="pipenv", packages=("pipenv==2026.10.3",), module="pipenv"),
        check=("verify",),
        export=("requirements", "--hash"),
        again="pipenv lock",
        beside="Pipfile",
        stdout=True,
    ),
}


async def read_lock(root: Path, lock: str) -> str:
    """Text of the lock file and of what it follows from. Raises `DetectionError` (lock_alone)."""
    beside = LOCKS[lock].beside
    texts = await asyncio.to_thread(lambda: [text_of(root, name) for name in (beside, lock)])
    if not texts[0]:
        raise DetectionError(
            f"{lock} is there: expected {beside} beside it, found none. Commit {beside} too.", code="lock_alone"
        )
    return "\n".join(texts)


def locked_layer(
    bench: Workbench, index: IndexSettings, python: Interpreter, *, lock: str, lock_hash: str
) -> LayerPlan:
    """The layer that a lock file describes."""
    manager = LOCKS[lock]

    async def install() -> Path:
        exported = await _export(bench, index, python, lock)
        # The lock says everything, sub-dependencies included; looking for more could only find something else.
        arguments = ["--no-deps", "-r", str(exported)]
        return await pip_install(bench, index, python, arguments, asked_by=lock)

    parts = ("python", python.version, str(python.path), manager.tool.directory, lock_hash, *index_parts(bench))
    return LayerPlan(key_parts=parts, lock_hash=lock_hash, lock_file=lock, install=install)


async def _export(bench: Workbench, index: IndexSettings, python: Interpreter, lock: str) -> Path:
    manager = LOCKS[lock]
    pip = await asyncio.to_thread(install_pip, bench.tools)
    settings = await index.for_pip(python.path, pip)
    await bench.log.detail(f"{manager.tool.directory} reads {lock}")
    tool = await install_python_tool(bench.tools, manager.tool, python=python, pip=pip, settings=settings)
    home = bench.work / "home"
    env = bench.environment(
        {
            "PYTHONPATH": str(tool),
            "PYTHONDONTWRITEBYTECODE": "1",
            "UV_CACHE_DIR": str(home / "uv"),
            "UV_PYTHON": str(python.path),
            "UV_PYTHON_DOWNLOADS": "never",
            "POETRY_CACHE_DIR": str(home / "poetry"),
            "POETRY_VIRTUALENVS_CREATE": "false",
            "PIPENV_IGNORE_VIRTUALENVS": "1",
            "PIPENV_NOSPIN": "1",
            "PIPENV_PYTHON": str(python.path),
            "WORKON_HOME": str(home),
            "NO_COLOR": "1",
        },
        path=[tool / "bin", python.path.parent],
    )
    out = bench.make_directory("locked") / _EXPORTED
    argv = [str(python.path), "-m", manager.tool.module]
    written: list[str] = []

    async def keep(lines: list[str]) -> None:
        written.extend(lines)

    try:
        for arguments in (manager.check, manager.export):
            if arguments:
                told = [argument.replace("{out}", str(out)) for argument in arguments]
                failed = f"{manager.tool.name} could not read {lock}"
                answer = keep if manager.stdout and arguments is manager.export else None
                await bench.run(
                    [*argv, *told], cwd=bench.root, env=env, code="dependencies_failed", failed=failed, network=True,
                    sink=answer,
                )  # fmt: skip
        if manager.stdout:
            text = "\n".join(line for line in written if _REQUIREMENT.match(line))
            await asyncio.to_thread(write_new, out, text.encode(), bench.request.user)
    except StepFailedError as error:
        out_of_step = error.code == "dependencies_failed" and any("lock" in line.lower() for line in error.lines)
        if not out_of_step:
            raise
        raise StepFailedError(
            f"{manager.beside} and {lock} say different things; expected one to follow from the other. Run "
            f"`{manager.again}` and commit {lock}.",
            code="lock_out_of_step",
            lines=error.lines,
        ) from error
    return out
