"""Builds static sites: nothing to install, and a small server that comes along in the layer.

Knows which directory is served; it must not know how the server is reached.
"""

import asyncio
import hashlib
import shlex
import shutil
from pathlib import Path

from actors.builder.errors import DetectionError
from actors.builder.interpreters import find_interpreter
from actors.builder.languages.beside import BESIDE, put_beside
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench

_SERVER = Path(__file__).with_name("static_server.py")
_ROOTS = (".", "public", "dist")


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this static site. Raises `DetectionError` (static_root_missing), `ToolMissingError`."""
    root = _served(bench.root, bench.settings.static_root)
    python = await asyncio.to_thread(find_interpreter, "python", wanted="", for_others=bench.for_others)
    await bench.log.detail(f"serving {root}/")
    source = await asyncio.to_thread(_SERVER.read_bytes)
    digest = hashlib.sha256(source).hexdigest()

    async def install() -> Path:
        target = bench.make_directory("deps")
        await asyncio.to_thread(shutil.copyfile, _SERVER, target / _SERVER.name)
        await asyncio.to_thread(_own, target / _SERVER.name, bench.request.user)
        return target

    async def start() -> str:
        return await asyncio.to_thread(start_of_site, bench.root, bench.settings.static_root)

    layer = LayerPlan(key_parts=("static", digest), lock_hash=digest, lock_file=_SERVER.name, install=install)
    return LanguagePlan(runtime=python.runtime, interpreter=python.path, start=start, layer=layer)


def start_of_site(root: Path, explicit: str | None) -> str:
    """The command that serves a site as it is. Blocking. Raises `DetectionError` (static_root_missing)."""
    return f'python "$RAYFOLD_DEPS/{_SERVER.name}" {shlex.quote(_served(root, explicit))}'


def put_server(root: Path, user: tuple[int, int] | None) -> None:
    """Put the server beside a site that another language's build made. Blocking."""
    put_beside(root, _SERVER, _SERVER.name, user)


def start_server(served: str, *, fall_back: bool) -> str:
    """The command that serves `served` with it; `fall_back`: unknown paths are index.html's, which routes them."""
    return f"python {BESIDE}/{_SERVER.name} {shlex.quote(served)}{' --fall-back' if fall_back else ''}"


def _own(path: Path, user: tuple[int, int] | None) -> None:
    if user is not None:
        shutil.chown(path, *user)


def _served(root: Path, explicit: str | None) -> str:
    if explicit is not None:
        found = (root / explicit).resolve()
        if found.is_dir() and found.is_relative_to(root.resolve()):
            return explicit
        raise DetectionError(
            f"rayfold.toml: build.root: expected a directory inside the source, found {explicit!r}.",
            code="static_root_missing",
        )
    for name in _ROOTS:
        if (root / name / "index.html").is_file():
            return name
    raise DetectionError(
        "Expected index.html, public/index.html or dist/index.html; found none. Set build.root in rayfold.toml to the "
        "directory to serve.",
        code="static_root_missing",
    )
