"""Finds the Python or Node that an application's own user can execute on this machine.

Looks at files only, plus one call for the version; it must not know what is run with it.
"""

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from actors.builder.errors import ToolMissingError

_PLACES = ("/usr/bin", "/usr/local/bin", "/opt/python/bin", "/opt/node/bin")
_ASK = {
    "python": ("-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"),
    "node": ("--version",),
}
_VERSION = re.compile(r"^v?(\d+)\.(\d+)\.(\d+)")
_ASK_SECONDS = 20
_INSTALL = {"python": "apt-get install python3", "node": "apt-get install nodejs npm"}


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A usable interpreter: its path, `runtime` (python3.11, node20) and full version."""

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
    try:
        done = subprocess.run(
            [str(path), *_ASK[family]], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.match(done.stdout.strip())
    return ".".join(match.groups()) if match and done.returncode == 0 else None


def _candidates(family: str, wanted: str, for_others: bool) -> Iterator[Path]:
    names = {"python": [f"python{wanted}", "python3"], "node": ["node", "nodejs"]}[family]
    places = list(_PLACES)
    if not for_others:
        places = [*os.environ.get("PATH", "").split(":"), *places]
        if family == "python":
            # Not sys.executable: in a virtual environment that would show the application the platform's packages.
            yield Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for name in names:
        for place in places:
            if place:
                yield Path(place) / name


def _runtime(family: str, version: str) -> str:
    parts = version.split(".")
    return f"python{parts[0]}.{parts[1]}" if family == "python" else f"node{parts[0]}"


def find_interpreter(family: str, *, wanted: str, for_others: bool, first: Path | None = None) -> Interpreter:
    """The interpreter of `family` (python, node) whose version starts with `wanted` ("" for any), else any.

    `for_others`: it must be executable by every user of the machine (the application has a user of its own). `first` is
    tried before all others. Blocking. Raises `ToolMissingError` with what was looked at and the fix.
    """
    usable: list[Interpreter] = []
    hidden: list[str] = []
    for path in [*([first] if first else []), *_candidates(family, wanted, for_others)]:
        if not path.is_file() or path.resolve() in {found.path.resolve() for found in usable}:
            continue
        if (for_others and not world_executable(path)) or not os.access(path, os.X_OK):
            hidden.append(str(path))
            continue
        if family == "python" and _is_virtual(path):
            continue
        version = _version_of(family, path, path.stat().st_mtime)
        if version is None:
            continue
        found = Interpreter(path=path, runtime=_runtime(family, version), version=version)
        if not wanted or (version + ".").startswith(wanted.rstrip(".") + "."):
            return found
        usable.append(found)
    if usable:
        return usable[0]
    seen = f" ({', '.join(hidden)} is there, but other users cannot execute it)" if hidden else ""
    raise ToolMissingError(
        f"Expected a {family} that the application's user can execute in {', '.join(_PLACES)}, found none{seen}. "
        f"Install one for all users: {_INSTALL[family]}.",
        code=f"{family}_missing",
    )


def _is_virtual(path: Path) -> bool:
    return (path.parent.parent / "pyvenv.cfg").exists()


def find_program(name: str, *, for_others: bool) -> Path | None:
    """A program beside the interpreters, or (for the platform's own user) on PATH; None if there is none."""
    for place in _PLACES:
        path = Path(place) / name
        if path.is_file() and (world_executable(path) if for_others else os.access(path, os.X_OK)):
            return path
    found = None if for_others else shutil.which(name)
    return Path(found) if found else None
