"""How long a build takes when little changed: first, with a changed source, and without the cached layer.

Builds `examples/hello-python` and `hello-node` with the engine that a builder runs, from upload to stored artifact.
The peer does with the same sources what piku does on a push. Run: python -m benchmarks.build [--json] [--quick].
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.model import BuildRequest, BuildState, SourceSpec
from actors.builder.pack import pack_directory
from benchmarks.harness import Case, Result, case, main, result

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LANGUAGES = {"python": "hello-python", "node": "hello-node"}
ENTRY = {"python": "app.py", "node": "server.js"}
COMMENT = {"python": "#", "node": "//"}
ROUNDS = 10
QUICK_ROUNDS = 3
BUILD_USER = 70900
TARGET_SECONDS = 2.0
"""What issue 5 asks of a rebuild with an unchanged lock file."""


class BuildFailedError(RuntimeError):
    """A build that was to be measured did not succeed."""


def _source(language: str, directory: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / LANGUAGES[language], directory / language))


def _change(source: Path, language: str, number: int) -> None:
    entry = source / ENTRY[language]
    entry.write_text(f"{entry.read_text()}\n{COMMENT[language]} change {number}\n")


async def _build(engine: BuildEngine, source: Path, build_id: str, *, fresh: bool = False) -> float:
    """Seconds from the packed upload to the stored artifact."""
    scratch = engine.dirs.uploads / "incoming"
    packed = await asyncio.to_thread(pack_directory, source, scratch)
    scratch.rename(engine.dirs.uploads / packed.digest)
    request = BuildRequest(
        build_id=build_id, service_id="0" * 16, team="t", app="a", component="web", fresh=fresh,
        source=SourceSpec(kind="upload", digest=packed.digest),
        user=(BUILD_USER, BUILD_USER) if os.getuid() == 0 else None,
    )  # fmt: skip
    begun = time.perf_counter()
    outcome = await engine.run(request)
    took = time.perf_counter() - begun
    if outcome.state is not BuildState.SUCCEEDED:
        raise BuildFailedError(f"{build_id}: {outcome.code}: {outcome.reason}")
    return took


async def ours(language: str, directory: Path, rounds: int) -> list[Case]:
    """First build; rebuilds of a changed source, by one engine and by a new one each time."""
    dirs = BuildDirs.under(directory / "data", directory / "node")
    source = await asyncio.to_thread(_source, language, directory)
    engine = BuildEngine(dirs)
    await engine.start()
    first = await _build(engine, source, f"{language}-first")
    warm: list[float] = []
    cold: list[float] = []
    for number in range(rounds):
        _change(source, language, number)
        warm.append(await _build(engine, source, f"{language}-warm-{number}"))
        _change(source, language, number)
        restarted = BuildEngine(dirs)
        await restarted.start()
        cold.append(await _build(restarted, source, f"{language}-cold-{number}"))
    return [
        case(f"{language}: first build", "build", [first]),
        case(f"{language}: rebuild, lock file unchanged, warm builder", "build", warm),
        case(f"{language}: rebuild, lock file unchanged, builder just started", "build", cold),
    ]


def piku_way(language: str, directory: Path, rounds: int) -> list[Case]:
    """What piku does on a push, step by step: push, fetch and reset the checkout, then install where it is due.

    Python: a virtual environment per app, made on the first push; `pip install -r requirements.txt` when that file is
    newer than the environment. Node: `npm install` when package.json is newer than node_modules.
    """
    source = _source(language, directory)
    bare, checkout, modules = directory / "bare.git", directory / "checkout", directory / "env"
    _git(directory, "init", "--quiet", "--bare", "-b", "main", str(bare))
    _git(source, "init", "--quiet", "-b", "main")
    times: list[float] = []
    for number in range(rounds + 1):
        if number:
            _change(source, language, number)
        _git(source, "add", ".")
        _git(source, "commit", "--quiet", "-m", f"change {number}")
        begun = time.perf_counter()
        _git(source, "push", "--quiet", str(bare), "main")
        if not number:
            _git(directory, "clone", "--quiet", str(bare), str(checkout))
        _git(checkout, "fetch", "--quiet")
        _git(checkout, "reset", "--quiet", "--hard", "origin/main")
        (_install_python if language == "python" else _install_node)(checkout, modules)
        times.append(time.perf_counter() - begun)
    return [
        case(f"{language}: piku's steps, first push", "build", times[:1]),
        case(f"{language}: piku's steps, push of a change", "build", times[1:]),
    ]


def _install_python(checkout: Path, env: Path) -> None:
    wanted = checkout / "requirements.txt"
    if env.exists() and wanted.stat().st_mtime <= env.stat().st_mtime:
        return
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    pip = [str(env / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
    subprocess.run(pip, check=True)
    os.utime(env)


def _install_node(checkout: Path, _: Path) -> None:
    modules = checkout / "node_modules"
    if modules.exists() and (checkout / "package.json").stat().st_mtime <= modules.stat().st_mtime:
        return
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=checkout, check=True)
    os.utime(modules)


def _git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "safe.directory=*"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, stdout=subprocess.DEVNULL)


async def run(quick: bool) -> Result:
    """Both languages, ours and the peer's, on the same sources."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    cases: list[Case] = []
    peers: list[Case] = []
    ratios: dict[str, float] = {}
    for language in LANGUAGES:
        with tempfile.TemporaryDirectory(prefix="rf-build-", dir="/tmp") as place:
            Path(place).chmod(0o711)
            mine = await ours(language, Path(place), rounds)
        with tempfile.TemporaryDirectory(prefix="rf-piku-", dir="/tmp") as place:
            theirs = await asyncio.to_thread(piku_way, language, Path(place), rounds)
        slowest = max(float(each["max_ms"]) for each in mine[1:])
        ratios[f"{language}: first build"] = round(float(theirs[0]["p50_ms"]) / float(mine[0]["p50_ms"]), 2)
        ratios[f"{language}: rebuild p50"] = round(float(theirs[1]["p50_ms"]) / float(mine[1]["p50_ms"]), 2)
        ratios[f"{language}: 2 s over the slowest rebuild"] = round(TARGET_SECONDS * 1000 / slowest, 2)
        cases += mine
        peers += theirs
    return result("build", ("msgspec", "zstandard"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
