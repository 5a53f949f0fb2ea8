"""Builds Go programs: modules and compiled dependencies in a layer for building only, one program for each `main`.

The program needs nothing at run time; this must not know how artifacts are stored.
"""

import asyncio
import hashlib
import re
from pathlib import Path

from actors.builder.errors import DetectionError, StepFailedError
from actors.builder.interpreters import Interpreter, find_fitting
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.texts import text_of
from actors.builder.packages import Package, linked_in
from actors.builder.versions import fits

_MODULE = "go.mod"
_PROGRAMS = "bin"
_PACKAGE_MAIN = re.compile(r"^package main\b", re.MULTILINE)
_GO_LINE = re.compile(r"^go\s+(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)
_MODULE_LINE = re.compile(r"^module\s+\"?(\S+?)\"?\s*$", re.MULTILINE)
_WEB_NAMES = ("web", "server", "app", "api")
_OUT_OF_STEP = (
    "missing go.sum entry",
    "updates to go.mod needed",
    "no required module provides",
    "inconsistent vendoring",
)


def programs(root: Path) -> dict[str, str]:
    """Program names and the package (`./cmd/web`) each is built from: the top and every directory of cmd/. Blocking."""
    found: dict[str, str] = {}
    if _is_main(root):
        module = _MODULE_LINE.search(text_of(root, _MODULE))
        name = re.sub(r"/v\d+$", "", module[1]).rsplit("/", 1)[-1] if module else "web"
        found[name] = "."
    commands = root / "cmd"
    for directory in sorted(commands.iterdir()) if commands.is_dir() else []:
        if directory.is_dir() and _is_main(directory):
            found.setdefault(directory.name, f"./cmd/{directory.name}")
    return found


def _is_main(directory: Path) -> bool:
    files = [path for path in sorted(directory.glob("*.go")) if not path.name.endswith("_test.go")]
    return any(_PACKAGE_MAIN.search(text_of(directory, path.name)) for path in files)


def default_start(root: Path) -> str:
    """The start command without a Procfile: the only program, or the one of a usual name. Raises `DetectionError`."""
    made = list(programs(root))
    chosen = next((name for name in _WEB_NAMES if name in made), made[0] if len(made) == 1 else None)
    if chosen is not None:
        return f"{_PROGRAMS}/{chosen}"
    held = f"the programs {', '.join(made)}" if made else "no `package main` at the top or in cmd/"
    raise DetectionError(
        f"Expected one program, or one called {', '.join(_WEB_NAMES)}; found {held}. Add a Procfile: "
        f"`web: {_PROGRAMS}/{made[0] if made else 'NAME'}`.",
        code="no_start_command",
    )


def wanted_version(root: Path) -> str:
    """The least version of Go that go.mod asks for, "" for any. Blocking."""
    asked = _GO_LINE.search(text_of(root, _MODULE))
    return asked[1] if asked else ""


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this Go module. Raises `DetectionError` (go_mod_missing), `ToolMissingError`."""
    text = await asyncio.to_thread(text_of, bench.root, _MODULE)
    if not text:
        raise DetectionError(
            "Expected go.mod at the top, found Go files without a module. Run `go mod init NAME && go mod tidy` and "
            "commit go.mod and go.sum.",
            code="go_mod_missing",
        )
    least = await asyncio.to_thread(wanted_version, bench.root) or "1.0"
    go = await asyncio.to_thread(
        find_fitting,
        "go",
        accept=lambda version: fits(version, f">={least}", "npm"),
        asked=f"go.mod asks for go {least} or later",
        for_others=bench.for_others,
    )
    await bench.log.detail(f"Go {go.version} ({go.path})")
    made = await asyncio.to_thread(programs, bench.root)
    if not made:
        await asyncio.to_thread(default_start, bench.root)  # says what is missing
    build = _GoBuild(bench, go, made)

    async def start() -> str:
        return await asyncio.to_thread(default_start, bench.root)

    return LanguagePlan(
        runtime="system",
        interpreter=None,
        start=start,
        layer=await build.layer(text),
        finish=build.finish,
        finish_needs_layer=True,
        packages=build.packages,
    )


class _GoBuild:
    """The steps of one Go build, and what they share."""

    def __init__(self, bench: Workbench, go: Interpreter, made: dict[str, str]) -> None:
        self._bench = bench
        self._go = go
        self._made = made

    async def layer(self, module: str) -> LayerPlan:
        """Modules and the compiled standard library and dependencies, by go.mod, go.sum and Go's version."""
        sums = await asyncio.to_thread(text_of, self._bench.root, "go.sum")
        lock_hash = hashlib.sha256(f"{module}\0{sums}".encode()).hexdigest()
        return LayerPlan(
            key_parts=("go", self._go.version, lock_hash),
            lock_hash=lock_hash,
            lock_file="go.sum" if sums else _MODULE,
            install=self._install,
            launch=False,
        )

    async def _install(self) -> Path:
        target = self._bench.make_directory("deps")
        if not (self._bench.root / "vendor/modules.txt").is_file():
            await self._run(["mod", "download"], target, "go could not download the modules", network=True)
        # What this compiles for the packages below is what later builds with these modules find compiled.
        await self._compile(target, out=str(self._bench.make_directory("programs")))
        return target

    async def finish(self, layer: Path | None) -> None:
        """Compile each program to bin/NAME."""
        await self._bench.log.step(f"Compiling {', '.join(self._made)}")
        await self._compile(layer or self._bench.make_directory("deps"))

    async def packages(self) -> list[Package]:
        """What the linker put into the programs, as they tell it themselves."""
        told: list[str] = []

        async def listen(lines: list[str]) -> None:
            told.extend(lines)

        made = [f"{_PROGRAMS}/{name}" for name in self._made]
        bench = self._bench
        await bench.run(
            [str(self._go.path), "version", "-m", *made],
            cwd=bench.root,
            env=bench.environment({"GOTOOLCHAIN": "local", "GOENV": "off"}, path=[self._go.path.parent]),
            code="compile_failed",
            failed="go could not read the programs that it made",
            sink=listen,
        )
        return linked_in("\n".join(told))

    async def _compile(self, layer: Path, *, out: str = _PROGRAMS) -> None:
        for name, package in self._made.items():
            what = ["-o", f"{out}/{name}", package]
            await self._run(["build", "-trimpath", "-buildvcs=false", *what], layer, f"go could not build {package}")

    async def _run(self, arguments: list[str], layer: Path, failed: str, *, network: bool = False) -> None:
        bench = self._bench
        env = bench.environment(
            {
                "GOTOOLCHAIN": "local",
                "GOENV": "off",
                "GOFLAGS": "-modcacherw",
                "GOMODCACHE": str(layer / "mod"),
                "GOCACHE": str(layer / "build"),
                "GOPATH": str(bench.work / "home" / "go"),
                "CGO_ENABLED": bench.request.env.get("CGO_ENABLED", "0"),
            },
            path=[self._go.path.parent],
        )
        code = "dependencies_failed" if network else "compile_failed"
        argv = [str(self._go.path), *arguments]
        try:
            await bench.run(argv, cwd=bench.root, env=env, code=code, failed=failed, network=network)
        except StepFailedError as error:
            if any(sign in line for line in error.lines for sign in _OUT_OF_STEP):
                raise StepFailedError(
                    "go.mod and go.sum (or vendor/) do not cover what the source imports. Run `go mod tidy` (with "
                    "vendor/: `go mod vendor`) and commit what it changes.",
                    code="lock_out_of_step",
                    lines=error.lines,
                ) from error
            raise
