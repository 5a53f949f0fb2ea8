"""Builds Node applications: node_modules from the lock file into a layer, and the project's own build script.

A project whose install depends on its own source (workspaces, file: links, install scripts) is installed in a copy
of it and shares no layer; this must not know how artifacts are stored.
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
from actors.builder.interpreters import Interpreter, find_fitting, find_interpreter, find_program
from actors.builder.languages.beside import forget
from actors.builder.languages.node_in_place import INSTALL_SCRIPTS, install_scripts, move_modules, take_scripts_out
from actors.builder.languages.node_managers import NodeManager, choose_manager
from actors.builder.languages.node_package import PackageJson, read_package, served_directory, static_output
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.static import put_server, start_server
from actors.builder.languages.texts import first_version, text_of
from actors.builder.tools import IndexSettings, install_node_tool, npm_command
from actors.builder.versions import fits

_ENTRY_FILES = ("server.js", "index.js", "app.js", "main.js")
_VERSION_FILES = (".node-version", ".nvmrc")
_MODULES = "node_modules"
_OUT_OF_STEP = ("in sync", "needs to be updated", "ERR_PNPM_OUTDATED_LOCKFILE", "not up to date with", "YN0028")
_NOTES = (
    ".package-lock.json", ".modules.yaml", ".yarn-integrity", ".yarn-state.yml", ".pnpm-workspace-state-v1.json",
    ".pnpm-workspace-state.json", ".cache",
)  # fmt: skip
_INSIDE = ("file:", "link:", "workspace:", "portal:")


class _Locked(msgspec.Struct):
    link: bool = False
    resolved: str | bool = ""


class _Lock(msgspec.Struct):
    packages: dict[str, _Locked] = {}


async def plan(bench: Workbench, index: IndexSettings) -> LanguagePlan:
    """How to build this Node application. Raises `DetectionError`, `ToolMissingError`."""
    package = read_package(await bench.read("package.json"))
    wanted, said_by = await asyncio.to_thread(wanted_version, bench.root, package)
    node = await asyncio.to_thread(
        find_fitting,
        "node",
        accept=lambda version: fits(version, wanted, "npm"),
        asked=f"{said_by} asks for Node {wanted}",
        for_others=bench.for_others,
    )
    await bench.log.detail(f"Node {node.version} ({node.path})")
    manager, unread = await asyncio.to_thread(choose_manager, bench.root, package)
    if unread and manager:
        await bench.warn(f"{', '.join(unread)} is not read, because {manager.lock} is: remove what is not used")
    output = bench.settings.static_root or await asyncio.to_thread(static_output, bench.root, package)
    work = _NodeBuild(bench, index, node, package, manager)
    layer = None
    if manager is not None:
        why_in_place = _why_in_place(package, manager, await bench.read(manager.lock))
        if why_in_place is None:
            await asyncio.to_thread(remove_tree, bench.root / _MODULES)
            layer = await work.layer(launch=output is None)
        else:
            await bench.log.detail(f"installed in place, not cached: {why_in_place}")
            work.in_place = True
    if output is not None:
        return await _static_plan(bench, work, layer, output)
    return LanguagePlan(
        runtime=node.runtime,
        interpreter=node.path,
        start=work.start,
        layer=layer,
        prepare=work.prepare if work.in_place else None,
        finish=work.finish if work.in_place or work.builds else None,
        finish_needs_layer=work.builds,
    )


async def _static_plan(bench: Workbench, work: "_NodeBuild", layer: LayerPlan | None, output: str) -> LanguagePlan:
    """A site of files that the build script makes: Node builds it, and a small server gives it out."""
    python = await asyncio.to_thread(find_interpreter, "python", wanted="", for_others=bench.for_others)
    await bench.log.detail(f"a site of files: {output}/ is served after the build")

    async def finish(directory: Path | None) -> None:
        await work.finish(directory)
        await asyncio.to_thread(forget, bench.root / _MODULES)
        await asyncio.to_thread(put_server, bench.root, bench.request.user)

    async def start() -> str:
        return start_server(await asyncio.to_thread(served_directory, bench.root, output), fall_back=True)

    return LanguagePlan(
        runtime=python.runtime, interpreter=python.path, start=start, layer=layer,
        prepare=work.prepare if work.in_place else None, finish=finish, finish_needs_layer=True,
        start_after_finish=True,
    )  # fmt: skip


def wanted_version(root: Path, package: PackageJson) -> tuple[str, str]:
    """The range of Node versions asked for ("" for any), and which file says so. Blocking."""
    if package.engines.node:
        return package.engines.node, "package.json (engines.node)"
    for name in _VERSION_FILES:
        if re.match(r"^v?\d", version := first_version(text_of(root, name))):
            return version.lstrip("v").split(".")[0], name  # the machine has one of each major version
    return "", "package.json"


def _why_in_place(package: PackageJson, manager: NodeManager, lock_text: str) -> str | None:
    own = [name for name in INSTALL_SCRIPTS if name in package.scripts]
    if own:
        return f"package.json has the script {own[0]!r}"
    if package.workspaces:
        return "package.json has workspaces"
    every = {**package.dependencies, **package.devDependencies, **package.optionalDependencies}
    inside = [name for name, wanted in every.items() if wanted.startswith(_INSIDE)]
    if inside:
        return f"{inside[0]} is part of the source"
    if manager.name != "npm":
        return None
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


def default_start(root: Path, package: PackageJson) -> str:
    """`scripts.start` itself (npm between would not pass SIGTERM on), else `main`, else a file of a usual name.

    Blocking. Raises `DetectionError` (no_start_command).
    """
    scripts = package.scripts
    if "start" in scripts:
        return "npm start" if {"prestart", "poststart"} & scripts.keys() else scripts["start"]
    for name in [package.main, *_ENTRY_FILES]:
        if name and (root / name).is_file():
            return f"node {name}"
    raise DetectionError(
        'Expected a Procfile, "start" under "scripts" in package.json, or one of '
        f'{", ".join(_ENTRY_FILES)}; found none. Add to package.json: "scripts": {{"start": "node YOUR_FILE.js"}}.',
        code="no_start_command",
    )


class _NodeBuild:
    """The steps of one Node build, and what they share."""

    def __init__(
        self,
        bench: Workbench,
        index: IndexSettings,
        node: Interpreter,
        package: PackageJson,
        manager: NodeManager | None,
    ) -> None:
        self._bench = bench
        self._index = index
        self._node = node
        self._package = package
        self._manager = manager
        self.in_place = False
        self._installed: Path | None = None

    @property
    def builds(self) -> bool:
        """Whether the project has a build script, which is what needs development dependencies."""
        return "build" in self._package.scripts

    async def layer(self, *, launch: bool) -> LayerPlan:
        """node_modules as a layer, keyed by lock file, settings, package.json's dependencies and Node's version."""
        manager = self._manager
        assert manager is not None  # noqa: S101 - nothing to install, no layer
        names = [manager.lock, *manager.settings_files]
        texts = await asyncio.to_thread(lambda: [text_of(self._bench.root, name) for name in names])
        lock_hash = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()
        wanted = [self._package.dependencies, self._package.devDependencies, self._package.optionalDependencies]
        set_here = {name: value for name, value in self._bench.request.env.items() if name.lower().startswith("npm_")}
        install = manager.install(development=self.builds, home=Path("/"))
        parts = ["node", self._node.version, manager.name, manager.version, lock_hash, " ".join(install)]
        return LayerPlan(
            key_parts=(*parts, json.dumps([wanted, set_here], sort_keys=True)),
            lock_hash=lock_hash,
            lock_file=manager.lock,
            install=self._install,
            links={_MODULES: _MODULES},
            launch=launch,
        )

    async def prepare(self) -> None:
        """Install in a copy of the source, without the scripts of the project's own packages."""
        copy = await self._bench.working_copy("try")
        await asyncio.to_thread(take_scripts_out, copy, self._bench.request.user)
        await self._install_in(copy)
        self._installed = copy

    async def _put_in_place(self, installed: Path) -> None:
        """Take what was installed over, then run the scripts that were left out: on the copy that is published."""
        bench = self._bench
        linked = await asyncio.to_thread(move_modules, installed, bench.root)
        npm, env = await self._npm()
        for place, script in await asyncio.to_thread(install_scripts, bench.root, linked):
            await bench.log.step(f"Running the script {script!r} of {place / 'package.json'}")
            await bench.run(
                [*npm, "run", "--ignore-scripts", script], cwd=bench.root / place, env=env,
                code="dependencies_failed", failed=f"`npm run {script}` failed; it has no network",
            )  # fmt: skip

    async def finish(self, layer: Path | None) -> None:
        """Run the project's build script with node_modules in place; what npm needs only for that goes again."""
        bench = self._bench
        if self._installed is not None:
            await self._put_in_place(self._installed)
        elif layer is not None:
            (bench.root / _MODULES).symlink_to(layer / _MODULES)
        if self.builds:
            await bench.log.step(f"Running the build script: {self._package.scripts['build']}")
            npm, env = await self._npm()
            await bench.run(
                [*npm, "run", "build"], cwd=bench.root, env=env, code="build_script_failed",
                failed="`npm run build` failed",
            )  # fmt: skip
        if layer is not None:
            # Also when the script made a directory of the link: where it runs, the layer goes there.
            await asyncio.to_thread(forget, bench.root / _MODULES)

    async def start(self) -> str:
        """See `default_start`."""
        return await asyncio.to_thread(default_start, self._bench.root, self._package)

    async def _install(self) -> Path:
        target = self._bench.make_directory("deps")
        assert self._manager is not None  # noqa: S101 - nothing to install, no layer
        copied = ("package.json", self._manager.lock, *self._manager.settings_files)
        await asyncio.to_thread(self._copy, copied, target)
        await self._install_in(target)
        await asyncio.to_thread(self._keep_modules, target)
        return target

    def _copy(self, names: tuple[str, ...], target: Path) -> None:
        for name in names:
            if (self._bench.root / name).is_file():
                shutil.copyfile(self._bench.root / name, target / name)
                if self._bench.request.user is not None:
                    shutil.chown(target / name, *self._bench.request.user)

    @staticmethod
    def _keep_modules(target: Path) -> None:
        for path in target.iterdir():
            if path.name != _MODULES:
                forget(path)
        if (target / _MODULES).is_symlink():
            (target / _MODULES).unlink()  # an install script's doing: what it leads to is not the build's
        (target / _MODULES).mkdir(exist_ok=True)  # npm makes none when all is optional
        # What the managers note for themselves differs from one installation to the next.
        for note in _NOTES:
            path = target / _MODULES / note
            forget(path)

    async def _npm(self) -> tuple[list[str], dict[str, str]]:
        """npm's command, and the environment of everything that is run with Node."""
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
        path = [self._node.path.parent, program.parent]
        return npm, self._bench.environment({**settings, **quiet, **cache}, path=path)

    async def _install_in(self, directory: Path) -> None:
        bench, manager = self._bench, self._manager
        npm, env = await self._npm()
        if manager is None:
            return
        argv, home = npm, bench.work / "home"
        if manager.name != "npm":
            await bench.log.detail(f"{manager.name} {manager.version} reads {manager.lock}")
            settings = await self._index.for_npm(npm)
            tool = await install_node_tool(bench.tools, manager.package, npm=npm, settings=settings)
            argv = [str(self._node.path), str(tool / manager.script)]
            env |= manager.environment(home, settings)
            env["PATH"] = f"{tool}/node_modules/.bin:{env['PATH']}"
        arguments = manager.install(development=self.builds, home=home)
        failed = f"{manager.name} could not install what {manager.lock} asks for"
        try:
            await bench.run(
                [*argv, *arguments], cwd=directory, env=env, code="dependencies_failed", failed=failed, network=True
            )
        except StepFailedError as error:
            if any(sign in line for line in error.lines for sign in _OUT_OF_STEP):
                raise StepFailedError(
                    f"package.json and {manager.lock} say different things; expected one to follow from the other. Run "
                    f"`{manager.again}` and commit {manager.lock}.",
                    code="lock_out_of_step",
                    lines=error.lines,
                ) from error
            raise
