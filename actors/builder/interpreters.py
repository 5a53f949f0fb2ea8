"""Finds the language (Python, Node, Java, PHP, Ruby, Go) that an application's own user can execute on this machine.

Looks at files only, plus one call for the version; it must not know what is run with it.
"""

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from actors.builder.errors import ToolMissingError

_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/python/bin", "/opt/node/bin", "/usr/local/go/bin", "/usr/lib/go/bin")
_ASK_SECONDS = 20


class _Family(msgspec.Struct, frozen=True, kw_only=True):
    """How a language's program is called, asked for its version and installed; `parts` of it name the runtime."""

    title: str
    patterns: tuple[str, ...]
    ask: tuple[str, ...]
    version: str
    install: str
    places: tuple[str, ...] = _PLACES
    parts: int = 1


_FAMILIES = {
    "python": _Family(
        title="Python",
        patterns=("python3", "python3.?", "python3.??"),
        ask=("-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"),
        version=r"^(\d+)\.(\d+)\.(\d+)",
        install="apt-get install python3",
        parts=2,
    ),
    "node": _Family(
        title="Node",
        patterns=("node", "nodejs"),
        ask=("--version",),
        version=r"^v?(\d+)\.(\d+)\.(\d+)",
        install="apt-get install nodejs npm",
    ),
    "java": _Family(
        title="Java",
        patterns=("java",),
        places=("/usr/bin", "/usr/lib/jvm/*/bin", "/opt/java/bin", "/opt/jdk*/bin"),
        ask=("-version",),
        version=r'version "(\d+)(?:\.(\d+))?(?:\.(\d+))?',
        install="apt-get install default-jdk-headless maven",
    ),
    "php": _Family(
        title="PHP",
        patterns=("php", "php?.?"),
        ask=("-n", "-r", "echo PHP_VERSION;"),
        version=r"^(\d+)\.(\d+)\.(\d+)",
        install="apt-get install php-cli composer",
        parts=2,
    ),
    "ruby": _Family(
        title="Ruby",
        patterns=("ruby", "ruby?.?"),
        ask=("--disable=gems", "-e", "print RUBY_VERSION"),
        version=r"^(\d+)\.(\d+)\.(\d+)",
        install="apt-get install ruby bundler",
        parts=2,
    ),
    "go": _Family(
        title="Go",
        patterns=("go",),
        ask=("version",),
        version=r"go(\d+)\.(\d+)(?:\.(\d+))?",
        install="apt-get install golang-go",
        parts=2,
    ),
}


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A usable interpreter: its path, `runtime` (python3.11, node20, java17) and full version."""

    path: Path
    runtime: str
    version: str


def world_executable(path: Path) -> bool:
    """Whether any user may execute `path`: every directory of its real path and the file itself allow it."""
    try:
        real = path.resolve(strict=True)
        steps = [*real.parents, *path.absolute().parents]
        return all(step.stat().st_mode & stat.S_IXOTH for step in steps) and bool(
            real.stat().st_mode & stat.S_IXOTH and real.stat().st_mode & stat.S_IROTH
        )
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def _version_of(family: str, path: Path, _changed: float) -> str | None:
    known = _FAMILIES[family]
    # Not this process's environment: GOFLAGS or RUBYOPT of the platform's user would be asked along.
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "GOTOOLCHAIN": "local", "GOENV": "off"}
    try:
        done = subprocess.run(
            [str(path), *known.ask], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False, env=env, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(known.version, done.stdout.strip() or done.stderr.strip())
    return ".".join(part or "0" for part in match.groups()) if match and done.returncode == 0 else None


def _candidates(family: str, for_others: bool) -> Iterator[Path]:
    known = _FAMILIES[family]
    places = [path for pattern in known.places for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    if not for_others:
        places = [*(Path(place) for place in os.environ.get("PATH", "").split(":") if place), *places]
        if family == "python":
            # Not sys.executable: in a virtual environment that would show the application the platform's packages.
            yield Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for pattern in known.patterns:
        for place in places:
            yield from sorted(place.glob(pattern))


def _runtime(family: str, version: str) -> str:
    return family + ".".join(version.split(".")[: _FAMILIES[family].parts])


def family_of(runtime: str) -> str | None:
    """The family of a runtime's name (python3.11 → python); None for one that needs no interpreter (system)."""
    return next((name for name in _FAMILIES if re.fullmatch(rf"{name}\d[\d.]*", runtime)), None)


def find_interpreter(
    family: str,
    *,
    wanted: str,
    for_others: bool,
    first: Path | None = None,
    accept: Callable[[str], bool] | None = None,
) -> Interpreter:
    """The interpreter of `family` (python, node, …) whose version starts with `wanted` ("" for any), else any.

    `for_others`: it must be executable by every user of the machine (the application has a user of its own). `first` is
    tried before all others; `accept` says which versions will do at all. Blocking. Raises `ToolMissingError` with what
    was looked at and the fix; with the code `version_missing` when there are only others.
    """
    usable: list[Interpreter] = []
    hidden: list[str] = []
    for found in _usable(family, for_others, first, hidden):
        if (not wanted or (found.version + ".").startswith(wanted.rstrip(".") + ".")) and (
            accept is None or accept(found.version)
        ):
            return found
        usable.append(found)
    if usable and accept is None:
        return usable[0]
    known = _FAMILIES[family]
    if usable:
        raise ToolMissingError(
            f"no installed {known.title} fits; installed: "
            f"{', '.join(f'{found.version} ({found.path})' for found in usable)}",
            code="version_missing",
        )
    seen = f" ({', '.join(hidden)} is there, but other users cannot execute it)" if hidden else ""
    raise ToolMissingError(
        f"Expected a {family} that the application's user can execute in {', '.join(known.places)}, found none{seen}. "
        f"Install one for all users: {known.install}.",
        code=f"{family}_missing",
    )


def find_fitting(family: str, *, accept: Callable[[str], bool], asked: str, for_others: bool) -> Interpreter:
    """An interpreter whose version `accept` takes; `asked` says who wants what (`.ruby-version asks for 3.3`).

    Raises `ToolMissingError`: with the code `version_missing`, what is installed and both ways out.
    """
    try:
        return find_interpreter(family, wanted="", for_others=for_others, accept=accept)
    except ToolMissingError as error:
        if error.code != "version_missing":
            raise
        title = _FAMILIES[family].title
        raise ToolMissingError(
            f"{asked}, but {error}. Install a {title} that fits for all users of the builder's machine, or change that "
            "line to a version that is there.",
            code="version_missing",
        ) from error


def _usable(family: str, for_others: bool, first: Path | None, hidden: list[str]) -> Iterator[Interpreter]:
    seen: set[Path] = set()
    for path in [*([first] if first else []), *_candidates(family, for_others)]:
        if not _is_file(path) or path.resolve() in seen:
            continue
        if (for_others and not world_executable(path)) or not os.access(path, os.X_OK):
            hidden.append(str(path))
            continue
        if family == "python" and _is_virtual(path):
            continue
        version = _version_of(family, path, path.stat().st_mtime)
        if version is not None:
            seen.add(path.resolve())
            yield Interpreter(path=path, runtime=_runtime(family, version), version=version)


def _is_file(path: Path) -> bool:
    """False also where a directory on the way may not be looked into: it holds nothing for us."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises PermissionError


def _is_virtual(path: Path) -> bool:
    return (path.parent.parent / "pyvenv.cfg").exists()


def find_program(name: str, *, for_others: bool) -> Path | None:
    """A program beside the interpreters, or (for the platform's own user) on PATH; None if there is none."""
    for place in _PLACES:
        path = Path(place) / name
        if _is_file(path) and (world_executable(path) if for_others else os.access(path, os.X_OK)):
            return path
    found = None if for_others else shutil.which(name)
    return Path(found) if found else None
