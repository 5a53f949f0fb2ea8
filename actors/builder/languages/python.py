"""Builds Python applications: dependencies from requirements.txt or pyproject.toml into a layer beside the source.

The layer is a plain directory on PYTHONPATH (`pip install --target`), so it can be unpacked anywhere; it must not
know how artifacts are stored.
"""

import asyncio
import hashlib
import posixpath
import re
import tomllib
from pathlib import Path

from actors.builder.errors import DetectionError
from actors.builder.interpreters import Interpreter, find_fitting
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.python_locks import LOCKS, locked_layer, read_lock
from actors.builder.languages.python_pip import compile_tree, index_parts, pip_install
from actors.builder.languages.texts import first_version, text_of
from actors.builder.tools import IndexSettings
from actors.builder.versions import Notation, fits

_REQUIREMENTS = "requirements.txt"
_PROJECT = "pyproject.toml"
_INCLUDE = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]?\s*(?P<file>\S+)")
_LOCAL = re.compile(r"^(?:-e\b|--editable\b|\.{1,2}(?:/|$|\[)|file:|/)|@ file:")
_EDITABLE = re.compile(r"^(?:-e\b|--editable\b)")
_DEEPEST_INCLUDE = 10
_ENTRY_FILES = ("app.py", "main.py", "server.py", "wsgi.py")
_WSGI_OBJECT = re.compile(r"^(?P<name>app|application)\s*(?::[^=]+)?=", re.MULTILINE)


class Requirements:
    """What a project asks pip for: the arguments, and every text the result depends on."""

    def __init__(self, *, file: str, arguments: list[str], texts: list[str], local: bool) -> None:
        self.file = file
        self.arguments = arguments
        self.texts = texts
        self.local = local

    @property
    def empty(self) -> bool:
        """Whether there is nothing to install."""
        return not any(_meaningful(text) for text in self.texts)

    @property
    def lock_hash(self) -> str:
        """sha256 over all the texts."""
        return hashlib.sha256("\0".join(self.texts).encode("utf-8", "surrogateescape")).hexdigest()

    def mentions(self, package: str) -> bool:
        """Whether `package` is asked for by name."""
        # Also as lock files name it: `name = "flask"` (uv, poetry), `"flask": {` (pipenv).
        pattern = re.compile(rf"^\s*(?:name = )?\"?{package}\b", re.IGNORECASE | re.MULTILINE)
        return any(pattern.search(text) for text in self.texts)


def _meaningful(text: str) -> list[str]:
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def read_requirements(root: Path) -> Requirements:
    """Read requirements.txt with all it includes, else [project] dependencies. Blocking. Raises `DetectionError`."""
    if (root / _REQUIREMENTS).is_file():
        texts: list[str] = []
        local = _collect(root, _REQUIREMENTS, texts, 0)
        return Requirements(file=_REQUIREMENTS, arguments=["-r", _REQUIREMENTS], texts=texts, local=local)
    if (root / "Pipfile").is_file():
        raise DetectionError(
            "Pipfile is there: expected Pipfile.lock beside it, found none. Run `pipenv lock` and commit Pipfile.lock.",
            code="lock_missing",
        )
    if (root / _PROJECT).is_file():
        dependencies = _project_dependencies((root / _PROJECT).read_text("utf-8", "replace"))
        local = any("@ file:" in line for line in dependencies)
        return Requirements(file=_PROJECT, arguments=dependencies, texts=["\n".join(dependencies)], local=local)
    return Requirements(file="", arguments=[], texts=[], local=False)


def _collect(root: Path, name: str, texts: list[str], depth: int) -> bool:
    """Append the text of `name` and of what it includes; whether any of it points into the source tree."""
    path = (root / name).resolve()
    if depth > _DEEPEST_INCLUDE or not path.is_relative_to(root.resolve()) or not path.is_file():
        raise DetectionError(
            f"{_REQUIREMENTS} includes {name!r}: expected a file inside the source, found none. Correct the line.",
            code="requirements_invalid",
        )
    text = path.read_text("utf-8", "replace")
    texts.append(text)
    local = False
    for line in _meaningful(text):
        if _EDITABLE.match(line):
            raise DetectionError(
                f"{name}: {line!r} installs in place, which cannot go into a layer. Write the path without -e.",
                code="requirements_invalid",
            )
        if include := _INCLUDE.match(line):
            if "://" not in include["file"]:
                nested = posixpath.join(posixpath.dirname(name), include["file"])
                local = _collect(root, nested, texts, depth + 1) or local
        elif _LOCAL.search(line):
            local = True
    return local


def _project_dependencies(text: str) -> list[str]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DetectionError(f"{_PROJECT}: expected TOML, found: {error}.", code="requirements_invalid") from error
    project = tables.get("project")
    if isinstance(project, dict):
        listed = project.get("dependencies", [])
        if isinstance(listed, list) and all(isinstance(line, str) and not line.startswith("-") for line in listed):
            return listed
        raise DetectionError(
            f"{_PROJECT}: project.dependencies: expected a list of requirements, found {listed!r}.",
            code="requirements_invalid",
        )
    if isinstance(tables.get("tool"), dict) and "poetry" in tables["tool"]:
        raise DetectionError(
            f"{_PROJECT} has [tool.poetry] and no [project]: expected poetry.lock beside it, found none. Run `poetry "
            "lock` and commit poetry.lock.",
            code="lock_missing",
        )
    return []


def read_any(root: Path) -> Requirements:
    """Requirements from whichever file is there, lock files included, to look for names in. Blocking."""
    locks = [name for name in LOCKS if (root / name).is_file()]
    if (root / _REQUIREMENTS).is_file() or not locks:
        return read_requirements(root)
    return Requirements(file=locks[0], arguments=[], texts=[text_of(root, locks[0])], local=False)


async def plan(bench: Workbench, index: IndexSettings) -> LanguagePlan:
    """How to build this Python application. Raises `DetectionError`, `ToolMissingError`."""
    wanted, said_by, notation = await asyncio.to_thread(wanted_version, bench.root)
    python = await asyncio.to_thread(
        find_fitting,
        "python",
        accept=lambda version: fits(version, wanted, notation),
        asked=f"{said_by} asks for Python {wanted}",
        for_others=bench.for_others,
    )
    locks = [name for name in LOCKS if (bench.root / name).is_file()]
    if (bench.root / _REQUIREMENTS).is_file() and locks:
        await bench.warn(f"{', '.join(locks)} is not read, because {_REQUIREMENTS} is there: remove one of them")
        locks = []
    await bench.log.detail(f"Python {python.version} ({python.path})")
    if locks:
        locked = await read_lock(bench.root, locks[0])
        requirements = Requirements(file=locks[0], arguments=[], texts=[locked], local=False)
        layer: LayerPlan | None = locked_layer(bench, index, python, lock=locks[0], lock_hash=requirements.lock_hash)
    else:
        requirements = await asyncio.to_thread(read_requirements, bench.root)
        layer = None if requirements.empty else _layer(bench, index, python, requirements)

    async def finish(_: Path | None) -> None:
        await compile_tree(bench, python, bench.root)

    async def start() -> str:
        return await asyncio.to_thread(default_start, bench.root, requirements)

    return LanguagePlan(runtime=python.runtime, interpreter=python.path, start=start, layer=layer, finish=finish)


def wanted_version(root: Path) -> tuple[str, str, Notation]:
    """What the project asks for, which file says so, and in which notation; "" for any. Blocking."""
    for name in (".python-version", "runtime.txt"):
        version = first_version(text_of(root, name))
        if match := re.match(r"^\d+(?:\.\d+)?", version):
            return match[0], name, "pip"  # the patch level is the machine's
    try:
        tables = tomllib.loads(text_of(root, _PROJECT))
    except tomllib.TOMLDecodeError:
        return "", _PROJECT, "pip"
    project = tables.get("project")
    asked = project.get("requires-python", "") if isinstance(project, dict) else ""
    return (asked if isinstance(asked, str) else ""), _PROJECT, "pip"


def _layer(bench: Workbench, index: IndexSettings, python: Interpreter, requirements: Requirements) -> LayerPlan:
    async def install() -> Path:
        asked, local = requirements.arguments, requirements.local
        return await pip_install(bench, index, python, asked, asked_by=requirements.file, local=local)

    parts = ["python", python.version, str(python.path), requirements.lock_hash, *index_parts(bench)]
    if requirements.local:
        parts.append(bench.request.build_id)  # it installs from the source itself, whatever that holds: never shared
    return LayerPlan(
        key_parts=tuple(parts), lock_hash=requirements.lock_hash, lock_file=requirements.file, install=install
    )


def default_start(root: Path, requirements: Requirements) -> str:
    """The start command of an application without Procfile; the rules are in this function, in order. Blocking.

    Django's manage.py with gunicorn; an `app` or `application` object in app.py, main.py, server.py or wsgi.py with
    gunicorn or uvicorn among the requirements; else the first of these files as a script; else manage.py runserver.
    Raises `DetectionError` (no_start_command).
    """
    bind = "127.0.0.1:$PORT"
    is_django = (root / "manage.py").is_file()
    if is_django and requirements.mentions("gunicorn"):
        for wsgi in sorted(root.glob("*/wsgi.py")):
            return f"gunicorn --bind {bind} {wsgi.parent.name}.wsgi"
    for name in _ENTRY_FILES:
        if not (root / name).is_file():
            continue
        found = _WSGI_OBJECT.search((root / name).read_text("utf-8", "replace"))
        target = f"{name.removesuffix('.py')}:{found['name']}" if found else ""
        if target and requirements.mentions("gunicorn"):
            return f"gunicorn --bind {bind} {target}"
        if target and requirements.mentions("uvicorn"):
            return f"uvicorn --host 127.0.0.1 --port $PORT {target}"
        return f"python {name}"
    if is_django:
        return f"python manage.py runserver {bind} --noreload"
    raise DetectionError(
        f"Expected a Procfile with `web: COMMAND`, or one of {', '.join(_ENTRY_FILES)}, manage.py; found none of them. "
        "Add a Procfile: `web: python YOUR_FILE.py`.",
        code="no_start_command",
    )
