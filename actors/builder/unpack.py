"""Makes a stored artifact ready to run on a node: read-only directories that one group can read.

A layer is unpacked once per group and shared by the artifacts that refer to it; it must not know who runs them.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import zstandard

from actors.builder.archive import ExtractLimits, Ownership, extract_tar, remove_tree
from actors.builder.artifacts import ArtifactStore, BlobRef, ImageRun, Manifest, read_manifest
from actors.builder.errors import ArtifactError, ToolMissingError
from actors.builder.interpreters import family_of, find_interpreter
from actors.builder.model import GIB
from events.failpoints import failpoint

# A layer was bounded when it was built; these bounds only end a decompression bomb.
_LIMITS = ExtractLimits(total_bytes=64 * GIB, entries=5_000_000)
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_RUN_FILE = "run.json"
_TRAVERSE_ONLY = 0o711


class ImageOnly(ArtifactError):
    """The artifact is a container image, which is not unpacked but run by a container engine."""

    def __init__(self, digest: str, image: ImageRun | None) -> None:
        super().__init__(f"{digest} is a container image; expected layers to unpack. A container engine runs it.")
        self.image = image


async def unpack_artifact(store: ArtifactStore, digest: str, dest_root: Path, gid: int | None) -> Path:
    """Unpack artifact `digest` below `dest_root` and return its directory; at once when it is there already.

    The directory holds `app/` (run commands there), `deps` and `bin/`; all of it belongs to the platform's user and
    group `gid`, modes 0750 and 0640, so the application can read and not write it (`gid` None: the platform's own).
    Whoever runs it must be able to traverse `dest_root`. May be called at the same time, and again after a crash.
    Raises `ArtifactError`, `ImageOnly` among them, or `ToolMissingError` when this node has no interpreter for it.
    """
    group = "own" if gid is None else str(gid)
    final = dest_root / "artifacts" / group / digest
    if await asyncio.to_thread(final.is_dir):
        return final
    await asyncio.to_thread(_make_roots, dest_root, group, gid)
    manifest = await read_manifest(store, digest)
    deps = await _unpack_layer(store, manifest.deps, dest_root, group, gid) if manifest.deps else None
    if manifest.app is None:
        raise ImageOnly(digest, manifest.image)
    archive = await store.local_path(manifest.app.digest)
    await asyncio.to_thread(_build_artifact, final, manifest, archive, deps, gid)
    return final


def run_env(artifact_dir: Path) -> dict[str, str]:
    """What a process of the unpacked artifact needs in its environment (PATH, PYTHONPATH, …); a small blocking read."""
    env: dict[str, str] = json.loads((artifact_dir / _RUN_FILE).read_text())
    return env


def _make_roots(dest_root: Path, group: str, gid: int | None) -> None:
    for kind in ("artifacts", "layers"):
        (dest_root / kind).mkdir(mode=_TRAVERSE_ONLY, parents=True, exist_ok=True)
        (dest_root / kind).chmod(_TRAVERSE_ONLY)
        place = dest_root / kind / group
        place.mkdir(mode=0o700, exist_ok=True)
        _give(place, gid)


def _give(path: Path, gid: int | None) -> None:
    if gid is not None:
        os.chown(path, -1, gid)
    path.chmod(0o750)


async def _unpack_layer(store: ArtifactStore, layer: BlobRef, dest_root: Path, group: str, gid: int | None) -> Path:
    final = dest_root / "layers" / group / layer.digest
    if await asyncio.to_thread(final.is_dir):
        return final
    archive = await store.local_path(layer.digest)
    await asyncio.to_thread(_publish, final, gid, lambda aside: _extract(archive, aside, gid))
    return final


def extract_layer(
    archive: Path, root: Path, *, ownership: Ownership | None = None, limits: ExtractLimits = _LIMITS
) -> None:
    """Extract a stored layer into the empty directory `root`; blocking."""
    with archive.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        extract_tar(stream, root, limits=limits, ownership=ownership)


def _extract(archive: Path, root: Path, gid: int | None) -> None:
    owner = Ownership(gid=gid, directory_mode=0o750, file_mode=0o640, executable_mode=0o750)
    extract_layer(archive, root, ownership=owner)


def _publish(final: Path, gid: int | None, fill: Callable[[Path], None]) -> None:
    """Fill a directory aside and rename it into place, so that one that is there is whole. The first of two wins."""
    aside = Path(tempfile.mkdtemp(prefix="incoming-", dir=final.parent))
    try:
        fill(aside)
        _give(aside, gid)
        failpoint("builder-unpacked")
        with suppress(OSError):  # not empty: another unpacker was first, and its content is the same
            aside.rename(final)
    finally:
        remove_tree(aside)
    if not final.is_dir():
        raise FileNotFoundError(f"{final} could not be put in place")


def _build_artifact(final: Path, manifest: Manifest, archive: Path, deps: Path | None, gid: int | None) -> None:
    def fill(aside: Path) -> None:
        (aside / "app").mkdir(mode=0o700)
        _extract(archive, aside / "app", gid)
        _give(aside / "app", gid)
        (aside / "bin").mkdir(mode=0o700)
        _give(aside / "bin", gid)
        if deps is not None:
            (aside / "deps").symlink_to(Path("../../../layers") / deps.parent.name / deps.name)
            for place, target in manifest.links.items():
                (aside / "app" / place).symlink_to(Path("../deps") / target)
        for name, program in _programs(manifest, gid).items():
            (aside / "bin" / name).symlink_to(program)
        (aside / _RUN_FILE).write_text(json.dumps(environment_of(manifest, final), indent=1, sort_keys=True))
        if gid is not None:
            os.chown(aside / _RUN_FILE, -1, gid)
        (aside / _RUN_FILE).chmod(0o640)

    _publish(final, gid, fill)


def _programs(manifest: Manifest, gid: int | None) -> dict[str, Path]:
    """Names to put on PATH: many systems have python3 and no `python`."""
    family = family_of(manifest.runtime)
    if family is None:
        return {}
    found = find_interpreter(
        family,
        wanted=manifest.runtime.removeprefix(family),
        for_others=gid is not None,
        first=Path(manifest.interpreter) if manifest.interpreter else None,
    )
    if found.runtime != manifest.runtime:
        raise ToolMissingError(
            f"The artifact was built for {manifest.runtime}; this node has {found.runtime} ({found.path}). Install "
            f"{manifest.runtime} for all users, or deploy again to build for this node."
        )
    names = ("python", "python3") if family == "python" else (family,)
    return dict.fromkeys(names, found.path)


def environment_of(manifest: Manifest, final: Path) -> Mapping[str, str]:
    """What a process needs in its environment where `app`, `deps` and `bin` lie in `final`."""
    app, deps = final / "app", final / "deps"
    path = [str(final / "bin")]
    env: dict[str, str] = {}
    if manifest.deps is not None:
        env["RAYFOLD_DEPS"] = str(deps)
    if manifest.language == "node":
        path.append(str(app / "node_modules" / ".bin"))
        env["NODE_ENV"] = "production"
    elif manifest.deps is not None:
        path.append(str(deps / "bin"))
    if manifest.runtime.startswith("python"):
        places = [str(app), str(app / "src")] + ([str(deps)] if manifest.deps else [])
        env |= {
            "PYTHONPATH": ":".join(places),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
        }
    for name, value in manifest.env.items():
        env[name] = value.replace("{app}", str(app)).replace("{deps}", str(deps))
    return {**env, "PATH": ":".join([*path, _SYSTEM_PATH])}
