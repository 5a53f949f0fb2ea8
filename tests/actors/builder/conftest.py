"""Fixtures of the builder's tests: real directories, real git, real pip and npm."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from actors.builder.access import no_access
from actors.builder.engine import AccessFor, BuildDirs, BuildEngine
from actors.builder.model import BuildOutcome, BuildRequest, LogLine, SourceSpec
from actors.builder.pack import pack_directory
from tests.git_hosts import HttpHost, http_host

TOKEN = "glpat-Correct_Horse-Battery"
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory other users can traverse, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="rayfold-build-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Bench:
    """An engine with its log lines kept, and short ways to ask it for builds."""

    def __init__(
        self, root: Path, at_once: int | None = None, access_for: AccessFor = lambda request: no_access
    ) -> None:
        self.root = root
        self.lines: dict[str, list[LogLine]] = {}
        self.engine = BuildEngine(
            BuildDirs.under(root / "data", root / "node"),
            sink_for=self._sink_for,
            at_once=at_once,
            access_for=access_for,
        )
        self._count = 0

    def _sink_for(self, request: BuildRequest) -> Callable[[list[LogLine]], Awaitable[None]]:
        async def sink(lines: list[LogLine]) -> None:
            self.lines.setdefault(request.build_id, []).extend(lines)

        return sink

    def request(self, source: SourceSpec, **changes: object) -> BuildRequest:
        self._count += 1
        values = {"build_id": f"b{self._count}", "service_id": "0" * 16, "team": "t", "app": "a", "component": "web"}
        return BuildRequest(**{**values, "source": source, **changes})  # type: ignore[arg-type]

    async def build(self, directory: Path, **changes: object) -> BuildOutcome:
        """Pack and upload `directory`, and build it."""
        scratch = self.root / f"pack{self._count}.tar.gz"
        packed = pack_directory(directory, scratch)
        uploads = self.engine.dirs.uploads
        uploads.mkdir(parents=True, exist_ok=True)
        scratch.rename(uploads / packed.digest)
        return await self.engine.run(self.request(SourceSpec(kind="upload", digest=packed.digest), **changes))

    def text(self, build_id: str) -> str:
        return "\n".join(line.text for line in self.lines.get(build_id, []))


@pytest.fixture
async def bench(open_dir: Path) -> AsyncIterator[Bench]:
    made = Bench(open_dir)
    await made.engine.start()
    yield made


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Write `files` (name → text) below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def git(*arguments: str, cwd: Path) -> str:
    """Run git with a known identity; its output."""
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }
    done = subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait until `condition` holds; fails the test after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def processes_with(mark: str) -> list[int]:
    """Processes whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in command:
                found.append(int(entry.name))
    return found


def repository(path: Path, files: dict[str, str] | None = None) -> Path:
    """With one commit on main."""
    write_tree(path, files or {"index.html": "private"})
    git("init", "-q", "-b", "main", cwd=path)
    git("add", ".", cwd=path)
    git("commit", "-q", "-m", "First", cwd=path)
    return path


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpHost]:
    """With acme/shop, which acme's password opens."""
    repository(tmp_path / "http/acme/shop")
    with http_host(tmp_path / "http") as host:
        host.passwords["acme"] = f"ada:{TOKEN}"
        yield host
