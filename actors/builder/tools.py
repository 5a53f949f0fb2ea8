"""Package tools a build needs and the machine's own settings for them: pip made readable for any user, index URLs.

Reads the platform user's configuration so that builds under other users reach the same index; it must not know
which build asks.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.builder.archive import remove_tree
from actors.builder.errors import ToolMissingError
from actors.builder.interpreters import Interpreter

_PIP_KEYS = frozenset(
    {"index-url", "extra-index-url", "find-links", "trusted-host", "cert", "proxy", "no-index", "timeout", "retries"}
)
_NPM_KEYS = ("registry", "cafile", "proxy", "https-proxy", "noproxy", "strict-ssl", "nodedir")
_ASK_SECONDS = 30.0
_INSTALL_SECONDS = 300.0


def _pip_wheels() -> list[Path]:
    """pip wheels that came with packages of the platform's own environment, newest first."""
    found: list[Path] = []
    for package, place in (("virtualenv", "seed/wheels/embed"), ("ensurepip", "_bundled")):
        spec = importlib.util.find_spec(package)
        for base in (spec.submodule_search_locations or []) if spec else []:
            found += sorted(Path(base, place).glob("pip-*.whl"), key=_version, reverse=True)
    return found


def _version(wheel: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in wheel.name.split("-")[1].split(".") if part.isdigit())


def install_pip(tools: Path) -> Path:
    """A directory for PYTHONPATH that holds pip, readable by every user; made once. Blocking.

    pip beside the application's interpreter may be absent (Debian) or out of another user's reach, so the copy that
    the platform's own packages bring along is used with whatever interpreter builds.
    Raises `ToolMissingError` when there is none.
    """
    wheels = _pip_wheels()
    if not wheels:
        raise ToolMissingError(
            "Expected pip among the platform's packages (virtualenv or ensurepip bring it), found none. Install "
            "one into the platform's environment: pip install virtualenv.",
            code="pip_missing",
        )
    final = tools / wheels[0].name.removesuffix(".whl")
    if final.is_dir():
        return final
    aside = _make_aside(tools)
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(aside)
        _open_to_all(aside)
        with suppress(OSError):  # another builder was first
            aside.rename(final)
    finally:
        remove_tree(aside)
    return final


class PythonTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool from the Python index: the packages in exact versions, the first being the tool, and how it is run."""

    name: str
    packages: tuple[str, ...]
    module: str

    @property
    def directory(self) -> str:
        """Its name and version."""
        return self.packages[0].replace("==", "-")


async def install_python_tool(
    tools: Path, tool: PythonTool, *, python: Interpreter, pip: Path, settings: Mapping[str, str]
) -> Path:
    """A directory for PYTHONPATH that holds `tool` for this Python, readable by every user; made once.

    Installed by the platform's own user, from wheels only: nothing of a package runs while it is installed.
    Raises `ToolMissingError` (tool_unavailable).
    """
    argv = [str(python.path), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--no-cache-dir"]
    env = {**os.environ, **settings, "PYTHONPATH": str(pip)}
    where = f"{tool.directory}-{python.runtime}"
    return await _install_aside(tools, where, [*argv, *tool.packages, "--target"], env, tool.directory)


async def install_node_tool(tools: Path, package: str, *, npm: Sequence[str], settings: Mapping[str, str]) -> Path:
    """A directory with node_modules/ that holds `package` (pnpm@10.20.0), readable by every user; made once.

    No script of the package runs. Raises `ToolMissingError` (tool_unavailable).
    """
    argv = [*npm, "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", package, "--prefix"]
    name = package.lstrip("@").replace("/", "-").replace("@", "-")
    return await _install_aside(tools, name, argv, {**os.environ, **settings}, package)


async def _install_aside(tools: Path, name: str, argv: list[str], env: Mapping[str, str], shown: str) -> Path:
    final = tools / name
    if await asyncio.to_thread(final.is_dir):
        return final
    aside = await asyncio.to_thread(_make_aside, tools)
    try:
        status, out = await _run([*argv, str(aside)], env, _INSTALL_SECONDS, with_errors=True)
        if status != 0:
            raise ToolMissingError(
                f"Expected to install {shown}, which reads the project's lock file, from the package registry; it "
                f"failed: {' '.join(out.split()[-40:]) or 'no answer'}. Deploy again when the registry can be reached.",
                code="tool_unavailable",
            )
        await asyncio.to_thread(_open_to_all, aside)
        with suppress(OSError):  # another builder was first
            await asyncio.to_thread(aside.rename, final)
    finally:
        await asyncio.to_thread(remove_tree, aside)
    return final


def _make_aside(tools: Path) -> Path:
    tools.mkdir(mode=0o755, parents=True, exist_ok=True)
    tools.chmod(0o755)
    return Path(tempfile.mkdtemp(prefix="incoming-", dir=tools))


def _open_to_all(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


class IndexSettings:
    """What pip and npm are configured to use for the platform's user, as environment variables; asked for once."""

    def __init__(self) -> None:
        self._pip: dict[str, str] | None = None
        self._npm: dict[str, str] | None = None
        self._asking = asyncio.Lock()

    async def for_pip(self, python: Path, pip: Path) -> dict[str, str]:
        """PIP_* variables; an index that is set nowhere stays unset."""
        async with self._asking:
            if self._pip is None:
                env = {**os.environ, "PYTHONPATH": str(pip)}
                self._pip = _parse_pip(await _ask([str(python), "-m", "pip", "config", "list"], env))
        return self._pip

    async def for_npm(self, npm: list[str]) -> dict[str, str]:
        """npm_config_* variables. Tokens are not among them: a private registry's is set in the build's environment."""
        async with self._asking:
            if self._npm is None:
                self._npm = _parse_npm(await _ask([*npm, "config", "list", "--json"], dict(os.environ)))
        return self._npm


def _parse_pip(text: str) -> dict[str, str]:
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found and key in _PIP_KEYS:
            found[section][key] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    merged = {**found["global"], **found["install"], **found[":env:"]}
    return {f"PIP_{key.upper().replace('-', '_')}": value for key, value in merged.items() if value}


def _parse_npm(text: str) -> dict[str, str]:
    try:
        settings = json.loads(text)
    except ValueError:
        return {}
    chosen = {key: settings.get(key) for key in _NPM_KEYS}
    return {
        f"npm_config_{key.replace('-', '_')}": str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in chosen.items()
        if value not in (None, "", [])
    }


async def _ask(argv: list[str], env: Mapping[str, str]) -> str:
    """Standard output of a tool; empty when it fails, because a build can do without the machine's settings."""
    status, out = await _run(argv, env, _ASK_SECONDS)
    return out if status == 0 else ""


async def _run(
    argv: list[str], env: Mapping[str, str], seconds: float, *, with_errors: bool = False
) -> tuple[int, str]:
    """Exit status and standard output of a program of the platform's own; -1 when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if with_errors else asyncio.subprocess.DEVNULL,
        env=env,
        cwd="/",
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate()
    except TimeoutError:
        return -1, ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode("utf-8", "replace")


def npm_command(node: Path, npm: Path) -> list[str]:
    """npm run by exactly this node; `npm` may be a link to its script or a shell wrapper."""
    real = npm.resolve()
    return [str(node), str(real)] if real.suffix == ".js" else [shutil.which("npm") or str(npm)]
