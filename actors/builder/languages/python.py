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
from actors.builder.interpreters import Interpreter, find_interpreter
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.tools import IndexSettings, install_pip

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
        pattern = re.compile(rf"^\s*{package}\b", re.IGNORECASE | re.MULTILINE)
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
            f"{_PROJECT} has [tool.poetry] and no [project]: expected [project] dependencies or a requirements.txt. "
            "Run `poetry export -o requirements.txt` and commit the file.",
            code="poetry_unread",
        )
    return []


async def plan(bench: Workbench, index: IndexSettings) -> LanguagePlan:
    """How to build this Python application. Raises `DetectionError`, `ToolMissingError`."""
    wanted = await _wanted_version(bench)
    python = await asyncio.to_thread(find_interpreter, "python", wanted=wanted, for_others=bench.for_others)
    if wanted and not (python.version + ".").startswith(wanted + "."):
        await bench.warn(f".python-version asks for {wanted}; this machine has {python.version}, which is used")
    requirements = await asyncio.to_thread(read_requirements, bench.root)
    await bench.log.detail(f"Python {python.version} ({python.path})")

    async def finish(_: Path | None) -> None:
        await _compile(bench, python, bench.root)

    async def start() -> str:
        return await asyncio.to_thread(default_start, bench.root, requirements)

    layer = None if requirements.empty else _layer(bench, index, python, requirements)
    return LanguagePlan(runtime=python.runtime, interpreter=python.path, start=start, layer=layer, finish=finish)


async def _wanted_version(bench: Workbench) -> str:
    if not (bench.root / ".python-version").is_file():
        return ""
    first = (await bench.read(".python-version")).split()
    match = re.match(r"^(?:python-?)?(\d+\.\d+)(?:\.\d+)?$", first[0]) if first else None
    return match[1] if match else ""


def _layer(bench: Workbench, index: IndexSettings, python: Interpreter, requirements: Requirements) -> LayerPlan:
    async def install() -> Path:
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
        argv = [str(python.path), "-m", "pip", "install", "--no-compile", "--target", str(target)]
        failed = f"pip could not install what {requirements.file} asks for"
        await bench.run(
            [*argv, *requirements.arguments], cwd=bench.root, env=env, code="dependencies_failed", failed=failed
        )
        await _compile(bench, python, target)
        return target

    parts = ["python", python.version, str(python.path), requirements.lock_hash]
    parts += [f"{name}={value}" for name, value in sorted(bench.request.env.items()) if name.startswith("PIP_")]
    if requirements.local:
        parts.append(bench.request.build_id)  # it installs from the source itself, whatever that holds: never shared
    return LayerPlan(
        key_parts=tuple(parts), lock_hash=requirements.lock_hash, lock_file=requirements.file, install=install
    )


async def _compile(bench: Workbench, python: Interpreter, tree: Path) -> None:
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
