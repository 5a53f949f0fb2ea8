"""Builds Node applications: node_modules from the lock file into a layer, and the project's own build script.

A project whose install depends on its own source (workspaces, file: links, install scripts) is installed in place;
this must not know how artifacts are stored.
"""

import asyncio
import hashlib
import json
import re
import shutil
from pathlib import Path

import msgspec

from actors.builder.archive import remove_tree
from actors.builder.errors import DetectionError, StepFailedError, ToolMissingError
from actors.builder.interpreters import Interpreter, find_interpreter, find_program
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.tools import IndexSettings, npm_command

_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
_OTHER_LOCKS = {"yarn.lock": "yarn", "pnpm-lock.yaml": "pnpm", "bun.lock": "bun", "bun.lockb": "bun"}
_OWN_INSTALL_SCRIPTS = ("preinstall", "install", "postinstall", "prepublish", "prepare")
_ENTRY_FILES = ("server.js", "index.js", "app.js", "main.js")
_MODULES = "node_modules"


class _Engines(msgspec.Struct):
    node: str = ""


class PackageJson(msgspec.Struct):
    """The keys of package.json that building and starting depend on."""

    name: str = ""
    main: str = ""
    scripts: dict[str, str] = {}
    dependencies: dict[str, str] = {}
    devDependencies: dict[str, str] = {}
    optionalDependencies: dict[str, str] = {}
    engines: _Engines = msgspec.field(default_factory=_Engines)


class _Locked(msgspec.Struct):
    link: bool = False
    resolved: str | bool = ""


class _Lock(msgspec.Struct):
    packages: dict[str, _Locked] = {}


def read_package(text: str) -> PackageJson:
    """Parse package.json; raises `DetectionError` (package_invalid) with what is wrong."""
    try:
        return msgspec.json.decode(text, type=PackageJson, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DetectionError(f"package.json: expected npm's JSON, found: {error}.", code="package_invalid") from error


async def plan(bench: Workbench, index: IndexSettings) -> LanguagePlan:
    """How to build this Node application. Raises `DetectionError`, `ToolMissingError`."""
    package = read_package(await bench.read("package.json"))
    node = await asyncio.to_thread(find_interpreter, "node", wanted=_wanted(package), for_others=bench.for_others)
    if _wanted(package) and node.version.split(".", 1)[0] != _wanted(package):
        await bench.warn(f"package.json asks for node {package.engines.node}; this machine has {node.version}")
    await bench.log.detail(f"Node {node.version} ({node.path})")
    lock = await _lock_file(bench, package)
    work = _NodeBuild(bench, index, node, package, lock)
    layer = None
    if lock is not None:
        why_in_place = _why_in_place(package, await bench.read(lock))
        if why_in_place is None:
            await asyncio.to_thread(remove_tree, bench.root / _MODULES)
            layer = await work.layer()
        else:
            await bench.log.detail(f"installed in place, not cached: {why_in_place}")
            work.in_place = True
    needs_finish = work.in_place or "build" in package.scripts
    return LanguagePlan(
        runtime=node.runtime,
        interpreter=node.path,
        start=work.start,
        layer=layer,
        finish=work.finish if needs_finish else None,
        finish_needs_layer="build" in package.scripts,
    )


def _wanted(package: PackageJson) -> str:
    """The major version, when `engines.node` names one simply (20, 20.x, ^20.1, ~20); ranges are not read."""
    match = re.fullmatch(r"[\^~=v\s]*(\d+)(?:\.[\dx*]+)*", package.engines.node.strip())
    return match[1] if match else ""


async def _lock_file(bench: Workbench, package: PackageJson) -> str | None:
    """The lock file's name; None when nothing is to be installed. Raises `DetectionError` (lock_missing)."""
    found = next((name for name in _LOCKS if (bench.root / name).is_file()), None)
    if not (package.dependencies or package.devDependencies or package.optionalDependencies):
        return None
    if found is None:
        other = next((name for name in _OTHER_LOCKS if (bench.root / name).is_file()), None)
        has = f"only {other} ({_OTHER_LOCKS[other]}, not built here yet)" if other else "none"
        raise DetectionError(
            f"package.json names dependencies: expected package-lock.json beside it, found {has}. Run `npm install "
            "--package-lock-only` and commit package-lock.json.",
            code="lock_missing",
        )
    return found


def _why_in_place(package: PackageJson, lock_text: str) -> str | None:
    own = [name for name in _OWN_INSTALL_SCRIPTS if name in package.scripts]
    if own:
        return f"package.json has the script {own[0]!r}"
    try:
        lock = msgspec.json.decode(lock_text, type=_Lock, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DetectionError(
            f"package-lock.json: expected npm's lock file, found: {error}. Run `npm install --package-lock-only`.",
            code="lock_invalid",
        ) from error
    for name, locked in lock.packages.items():
        if locked.link or (isinstance(locked.resolved, str) and locked.resolved.startswith("file:")):
            return f"{name} is part of the source"
    return None


class _NodeBuild:
    """The steps of one Node build, and what they share."""

    def __init__(
        self, bench: Workbench, index: IndexSettings, node: Interpreter, package: PackageJson, lock: str | None
    ) -> None:
        self._bench = bench
        self._index = index
        self._node = node
        self._package = package
        self._lock = lock
        self.in_place = False

    async def layer(self) -> LayerPlan:
        """node_modules as a layer, keyed by lock file, package.json's dependencies and Node's version."""
        lock = self._lock or ""
        texts = [await self._bench.read(lock)]
        if (self._bench.root / ".npmrc").is_file():
            texts.append(await self._bench.read(".npmrc"))
        lock_hash = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        wanted = [self._package.dependencies, self._package.devDependencies, self._package.optionalDependencies]
        set_here = {name: value for name, value in self._bench.request.env.items() if name.lower().startswith("npm_")}
        parts = ("node", self._node.version, lock_hash, self._omit(), json.dumps([wanted, set_here], sort_keys=True))
        return LayerPlan(
            key_parts=parts, lock_hash=lock_hash, lock_file=lock, install=self._install, links={_MODULES: _MODULES}
        )

    async def finish(self, layer: Path | None) -> None:
        """Run the project's build script with node_modules in place; what npm needs only for that goes again."""
        bench = self._bench
        if self.in_place:
            await self._npm(["ci", self._omit()], bench.root, "dependencies_failed", "npm ci failed")
        elif layer is not None:
            (bench.root / _MODULES).symlink_to(layer / _MODULES)
        if "build" in self._package.scripts:
            await bench.log.step(f"Running the build script: {self._package.scripts['build']}")
            await self._npm(["run", "build"], bench.root, "build_script_failed", "`npm run build` failed")
        if layer is not None:
            # Also when the script made a directory of the link: where it runs, the layer goes there.
            await asyncio.to_thread(remove_tree, bench.root / _MODULES)

    async def start(self) -> str:
        """`scripts.start` itself (npm between would not pass SIGTERM on), else `main`, else a file of a usual name."""
        scripts = self._package.scripts
        if "start" in scripts:
            return "npm start" if {"prestart", "poststart"} & scripts.keys() else scripts["start"]
        for name in [self._package.main, *_ENTRY_FILES]:
            if name and (self._bench.root / name).is_file():
                return f"node {name}"
        raise DetectionError(
            'Expected a Procfile, "start" under "scripts" in package.json, or one of '
            f'{", ".join(_ENTRY_FILES)}; found none. Add to package.json: "scripts": {{"start": "node YOUR_FILE.js"}}.',
            code="no_start_command",
        )

    def _omit(self) -> str:
        # A build script is what needs development dependencies.
        return "--include=dev" if "build" in self._package.scripts else "--omit=dev"

    async def _install(self) -> Path:
        target = self._bench.make_directory("deps")
        for name in ("package.json", self._lock or "", ".npmrc"):
            if name and (self._bench.root / name).is_file():
                await asyncio.to_thread(shutil.copyfile, self._bench.root / name, target / name)
        await self._npm(
            ["ci", self._omit()], target, "dependencies_failed", "npm could not install the lock file's packages"
        )
        for name in ("package.json", self._lock or "", ".npmrc"):
            (target / name).unlink(missing_ok=True)
        await asyncio.to_thread((target / _MODULES).mkdir, exist_ok=True)  # npm makes none when all is optional
        await asyncio.to_thread((target / _MODULES / ".package-lock.json").unlink, missing_ok=True)
        return target

    async def _npm(self, arguments: list[str], cwd: Path, code: str, failed: str) -> None:
        program = find_program("npm", for_others=self._bench.for_others)
        if program is None:
            raise ToolMissingError(
                "Expected npm for all users beside node, found none. Install it: apt-get install npm.",
                code="npm_missing",
            )
        npm = npm_command(self._node.path, program)
        settings = {**await self._index.for_npm(npm), **self._bench.request.env}
        quiet = {"npm_config_audit": "false", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
        cache = {"npm_config_cache": str(self._bench.work / "home" / ".npm")}
        env = self._bench.environment({**settings, **quiet, **cache}, path=[self._node.path.parent, program.parent])
        try:
            await self._bench.run([*npm, *arguments], cwd=cwd, env=env, code=code, failed=failed)
        except StepFailedError as error:
            if any("in sync" in line for line in error.lines):
                raise StepFailedError(
                    "package.json and its lock file say different things; expected one to follow from the other. Run "
                    "`npm install` and commit package-lock.json.",
                    code="lock_out_of_step",
                    lines=error.lines,
                ) from error
            raise
