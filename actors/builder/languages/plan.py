"""What every language builder is given and what it answers: the workbench and the plan.

Knows directories, environment and how to run a command; it must not know any language.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import msgspec

from actors.builder.archive import copy_tree
from actors.builder.diagnosis import diagnose
from actors.builder.errors import StepFailedError, StepTimedOutError
from actors.builder.log import BuildLog
from actors.builder.model import BuildRequest, ComponentSettings, StepTime
from actors.builder.packages import Package
from actors.builder.sandbox import LineSink, run_command
from actors.builder.steps import step_seconds
from events.failpoints import failpoint

# What a machine's administrator sets so that package tools reach their index at all.
_PASSED_PREFIXES = ("PIP_", "NPM_CONFIG_", "UV_")
_PASSED_GO = frozenset({"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE"})
_PASSED = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"}
    | {"CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}
    | _PASSED_GO
)
_NOT_PASSED = frozenset(
    {"PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "NPM_CONFIG_CACHE", "NPM_CONFIG_PREFIX"}
)
FETCHING = "dependencies"
"""The step that may have the network."""
BUILDING = "build"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_MISSING_PROGRAM = 127


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the platform's environment that a build's tools need to reach their index."""
    return {
        name: value
        for name, value in environ.items()
        if name.upper() not in _NOT_PASSED and (name.upper() in _PASSED or name.upper().startswith(_PASSED_PREFIXES))
    }


class Workbench:
    """One build's directories, environment and log, and the way to run a command there.

    `source` is what was fetched, which no command of the build may write to. `root` is where the application lies: in
    the source, and in a copy of it once it is built.
    """

    def __init__(
        self, *, request: BuildRequest, work: Path, settings: ComponentSettings, log: BuildLog, tools: Path
    ) -> None:
        self.request = request
        self.source = work / "src"
        self.root = self._tree = self.source
        self.settings = settings
        self.log = log
        self.tools = tools
        self.work = work
        self.warnings: list[str] = []
        self.times: list[StepTime] = []
        self.current_step = ""

    @property
    def owner(self) -> int:
        """The uid of what the build's commands make."""
        return self.request.user[0] if self.request.user else os.getuid()

    @property
    def for_others(self) -> bool:
        """Whether tools must be executable by a user other than the platform's."""
        return self.request.user is not None

    @asynccontextmanager
    async def step(self, name: str, announcement: str = "") -> AsyncIterator[None]:
        """Time a step, and announce it if it has something to say. Raises `StepTimedOutError` when its time is up."""
        outer, self.current_step = self.current_step, name
        started = monotonic()
        if announcement:
            await self.log.step(announcement)
        limit = step_seconds(
            name,
            whole=self.request.timeout_seconds,
            operator=self.request.step_seconds,
            source=self.settings.step_seconds,
        )
        try:
            async with asyncio.timeout(limit) as timer:
                failpoint(f"builder-step-{name}")
                yield
            if name == FETCHING and outer == BUILDING:
                self.current_step = outer
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise StepTimedOutError(
                f"The step {name!r} did not end within {limit:g} s and was stopped. Give it more time with "
                f"`{name} = SECONDS` under [build.timeouts] in rayfold.toml, and the whole build with `rayfold "
                "settings set build_timeout_seconds=SECONDS`; its last lines of output say what it waited for.",
                lines=self.log.lines_that_matter(),
            ) from error
        finally:
            self.times.append(StepTime(name=name, seconds=round(monotonic() - started, 3)))

    async def warn(self, text: str) -> None:
        """Keep a warning for the artifact and show it."""
        self.warnings.append(text)
        await self.log.problem(f"Warning: {text}")

    def environment(self, extra: Mapping[str, str] | None = None, *, path: Sequence[Path] = ()) -> dict[str, str]:
        """Environment of a command of this build: the platform's index settings, the build's own, then `extra`."""
        env = {**passed_on(os.environ), **self.request.env, "LANG": "C.UTF-8", "CI": "true"}
        env |= {"HOME": str(self.work / "home"), "TMPDIR": str(self.work / "tmp")}
        env["PATH"] = ":".join([*dict.fromkeys(map(str, path)), SYSTEM_PATH])
        return {**env, **(extra or {})}

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        code: str,
        failed: str,
        accepted: tuple[int, ...] = (0,),
        network: bool = False,
        sink: LineSink | None = None,
    ) -> None:
        """Run a command as the build's user; raises `StepFailedError` (`code`, `failed`, the lines that matter).

        A cause that `diagnosis` recognises is told with its own code. Only the step that fetches dependencies may have
        the `network`. Output goes to the log, or to `sink` where it is an answer.
        """
        if network and self.current_step != FETCHING:
            raise RuntimeError(f"expected the network in the step {FETCHING!r} only, found {self.current_step!r}")
        status = await run_command(
            argv, cwd=cwd, env=env, limits=self.request.limits, user=self.request.user,
            sink=sink or self.log.output, network=network, masking=None if sink else self.log.mask.masking,
            read_only=(self.source,),
        )  # fmt: skip
        if status not in accepted:
            why = "the program was not found" if status == _MISSING_PROGRAM else f"exit status {status}"
            known = diagnose(status, self.log.recent())
            told = f"{failed} ({why}). {known[1] if known else 'Correct what these lines name, and deploy again.'}"
            raise StepFailedError(told, code=known[0] if known else code, lines=self.log.lines_that_matter())

    def make_directory(self, name: str) -> Path:
        """A new directory of the build's user beside the source; blocking, but one system call or two."""
        path = self.work / name
        path.mkdir(mode=0o755)
        if self.request.user is not None:
            os.chown(path, *self.request.user)
        return path

    async def working_copy(self, name: str) -> Path:
        """A new copy of the source beside it, which commands may write to; where the application lies in it."""
        copy = self.work / name
        await asyncio.to_thread(copy_tree, self.source, copy, self.request.user)
        return copy / self.root.resolve().relative_to(self._tree.resolve())

    async def begin_building(self) -> None:
        """From here on the application lies in a copy of the source, which commands may write to and is published."""
        self.root, self._tree = await self.working_copy("app"), self.work / "app"

    async def read(self, name: str) -> str:
        """Text of a file of the source; bytes that are no UTF-8 are replaced."""
        return await asyncio.to_thread(lambda: (self.root / name).read_text("utf-8", "replace"))


class LayerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A dependency layer: `key_parts` is all its content depends on; `install` fills a new directory of the build.

    `install` returns the directory to pack. `links` maps paths in the application to paths in the layer. With `launch`
    False it serves building only (a module cache) and is no part of the artifact.
    """

    key_parts: tuple[str, ...]
    lock_hash: str
    lock_file: str
    install: Callable[[], Awaitable[Path]]
    links: dict[str, str] = {}
    launch: bool = True


async def nothing_more() -> list[Package]:
    """All that is installed says so itself, in files."""
    return []


class LanguagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How to build one application: its runtime, its layer if it has dependencies, and its default start command.

    `prepare` fetches what cannot be shared as a layer. `finish` runs after that, with the layer's directory if
    `finish_needs_layer`; `bench.root` is then a copy of the source that it changes, and that is published. `start` is
    called only when no Procfile says how to start, and with `start_after_finish` when all is built; it raises
    `DetectionError`. `env` is what running needs in the environment, where `{app}` and `{deps}` stand for the unpacked
    directories. `packages` are those in the finished application that no file of it names.
    """

    runtime: str
    interpreter: Path | None
    start: Callable[[], Awaitable[str]]
    layer: LayerPlan | None = None
    prepare: Callable[[], Awaitable[None]] | None = None
    finish: Callable[[Path | None], Awaitable[None]] | None = None
    finish_needs_layer: bool = False
    start_after_finish: bool = False
    env: dict[str, str] = {}
    packages: Callable[[], Awaitable[list[Package]]] = nothing_more
