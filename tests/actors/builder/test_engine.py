"""Whole builds: real git, pip and npm; what they make, how they fail, and how they are stopped."""

import asyncio
import base64
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.builder.artifacts import read_manifest
from actors.builder.engine import BuildDirs, BuildEngine
from actors.builder.errors import BuilderError, SettingsError
from actors.builder.log import Mask
from actors.builder.model import BuildLimits, BuildState, SourceSpec
from actors.builder.settings import parse_settings
from actors.builder.steps import STEPS, step_seconds
from actors.builder.unpack import run_env, unpack_artifact
from tests.actors.builder.conftest import EXAMPLES, Bench, eventually, git, processes_with, repository, write_tree

pytestmark = pytest.mark.servers  # most of them ask a package index

USER = (70021, 70021) if os.getuid() == 0 else None
GROUP = USER[1] if USER else None


async def run_there(bench: Bench, digest: str, command: str) -> str:
    """Run a command in the unpacked artifact as the application's user would; its output."""
    path = await unpack_artifact(bench.engine.store, digest, bench.root / "node", GROUP)
    done = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", command],
        cwd=path / "app",
        env=run_env(path),
        capture_output=True,
        text=True,
        timeout=30,
        user=USER[0] if USER else None,
        group=GROUP,
        extra_groups=[] if USER else None,
    )
    return done.stdout + done.stderr


async def test_python_with_dependencies_first_and_again(bench: Bench) -> None:
    first = await bench.build(EXAMPLES / "hello-python", user=USER)
    again = await bench.build(EXAMPLES / "hello-python", user=USER)

    assert first.artifact is not None, first
    assert again.artifact is not None
    assert first.artifact.detected == "detected Python because of requirements.txt"
    assert first.artifact.processes == {"web": "python app.py"}
    assert not first.artifact.cache_hit and again.artifact.cache_hit
    assert first.artifact.digest == again.artifact.digest
    assert again.seconds < 1.0
    assert "-----> Detected Python because of requirements.txt" in bench.text("b1")
    assert "Successfully installed bottle" in bench.text("b1")
    assert "Dependencies unchanged" in bench.text("b2")
    found = await run_there(bench, first.artifact.digest, "python -c 'import bottle, waitress; print(bottle.__file__)'")
    assert "/deps/bottle.py" in found
    assert (await run_there(bench, first.artifact.digest, "waitress-serve --help")).startswith("Usage")


async def test_the_same_inputs_installed_twice_give_the_same_artifact(bench: Bench) -> None:
    one = await bench.build(EXAMPLES / "hello-python", user=USER, fresh=True)
    two = await bench.build(EXAMPLES / "hello-python", user=USER, fresh=True)
    assert one.artifact is not None and two.artifact is not None
    assert not two.artifact.cache_hit
    assert one.artifact.digest == two.artifact.digest


async def test_a_poisoned_layer_is_found_and_built_again(bench: Bench, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"requirements.txt": "bottle==0.13.2\n", "app.py": "import bottle\nprint('fine')"})
    first = await bench.build(tree, user=USER)
    assert first.artifact is not None
    layer = (await read_manifest(bench.engine.store, first.artifact.digest)).deps
    assert layer is not None
    path = bench.engine.dirs.artifacts / layer.digest[:2] / layer.digest
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    again = await bench.build(tree, user=USER)

    assert again.artifact is not None and not again.artifact.cache_hit
    assert "is damaged" in again.artifact.warnings[0]
    assert again.artifact.digest == first.artifact.digest
    assert await run_there(bench, again.artifact.digest, "python app.py") == "fine\n"


async def test_teams_share_no_layer(bench: Bench) -> None:
    await bench.build(EXAMPLES / "hello-static", user=USER)
    other = await bench.build(EXAMPLES / "hello-static", user=USER, team="other")
    assert other.artifact is not None and not other.artifact.cache_hit


async def test_python_without_dependencies_is_built_at_once_and_never_asks_an_index(bench: Bench) -> None:
    env = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    found = await bench.build(EXAMPLES / "two-processes", user=USER, env=env)

    assert found.artifact is not None, found
    assert found.seconds < 1.0
    assert list(found.artifact.processes) == ["web", "worker"]
    assert found.artifact.release_command == "python release.py"
    assert "nothing to migrate" in await run_there(bench, found.artifact.digest, "python release.py")


async def test_dependencies_of_a_pyproject_and_a_src_directory(bench: Bench, tmp_path: Path) -> None:
    project = '[project]\nname = "x"\nversion = "1"\ndependencies = ["bottle==0.13.2"]\n'
    tree = write_tree(
        tmp_path, {"pyproject.toml": project, "src/pkg/__init__.py": "name = 'pkg'", "Procfile": "web: python -m pkg"}
    )
    found = await bench.build(tree, user=USER)
    assert found.artifact is not None, found
    assert await run_there(bench, found.artifact.digest, "python -c 'import pkg, bottle; print(pkg.name)'") == "pkg\n"


async def test_node_first_and_again(bench: Bench) -> None:
    first = await bench.build(EXAMPLES / "hello-node", user=USER)
    again = await bench.build(EXAMPLES / "hello-node", user=USER)

    assert first.artifact is not None, first
    assert again.artifact is not None and again.artifact.cache_hit
    assert again.seconds < 1.0
    assert first.artifact.digest == again.artifact.digest
    assert first.artifact.processes == {"web": "node server.js"}
    found = await run_there(bench, first.artifact.digest, """node -e 'console.log(require("ms")(60000))'""")
    assert found == "1m\n"


async def test_a_node_build_script_runs_with_development_dependencies(bench: Bench, tmp_path: Path) -> None:
    lock = (EXAMPLES / "hello-node/package-lock.json").read_text().replace('"dependencies"', '"devDependencies"')
    lock = lock.replace('"license": "MIT"', '"license": "MIT", "dev": true')
    package = """{"name": "hello-node", "version": "1.0.0", "devDependencies": {"ms": "2.1.3"},
        "scripts": {"build": "node build.js", "start": "node x.js"}}"""
    script = 'require("fs").writeFileSync("out.txt", require("ms")(1000))'
    tree = write_tree(tmp_path, {"package.json": package, "package-lock.json": lock, "build.js": script})
    for _ in range(2):
        found = await bench.build(tree, user=USER)
        assert found.artifact is not None, found
        assert await run_there(bench, found.artifact.digest, "cat out.txt") == "1s"
    assert found.artifact is not None and found.artifact.cache_hit


async def test_a_static_site(bench: Bench) -> None:
    found = await bench.build(EXAMPLES / "hello-static", user=USER)
    assert found.artifact is not None, found
    assert found.artifact.processes == {"web": 'python "$RAYFOLD_DEPS/static_server.py" public'}
    assert (await run_there(bench, found.artifact.digest, "test -f $RAYFOLD_DEPS/static_server.py && echo there")) == (
        "there\n"
    )


async def test_git_records_commit_and_author(bench: Bench, tmp_path: Path) -> None:
    repository(tmp_path, {"site/index.html": "x"})

    source = SourceSpec(kind="git", url=f"file://{tmp_path}", ref="main", subdir="site")
    found = await bench.engine.run(bench.request(source, user=USER))

    assert found.artifact is not None, found
    assert found.artifact.source_commit == git("rev-parse", "HEAD", cwd=tmp_path)
    assert found.artifact.source_author == "Ada <ada@example.org>"


FAILURES: dict[str, tuple[dict[str, str], str, str]] = {
    "no such package": (
        {"requirements.txt": "rayfold-no-such-package==9.9\n", "app.py": ""},
        "package_unknown",
        "No matching distribution found for rayfold-no-such-package==9.9",
    ),
    "requirements that do not parse": (
        {"requirements.txt": "bottle=!1\n", "app.py": ""},
        "dependencies_failed",
        "Invalid requirement",
    ),
    "build script": (
        {"package.json": '{"scripts": {"build": "echo went wrong: fatal; exit 4"}}', "server.js": ""},
        "build_script_failed",
        "went wrong: fatal",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_has_a_code_a_reason_and_the_lines_that_matter(name: str, bench: Bench, tmp_path: Path) -> None:
    files, code, line = FAILURES[name]
    found = await bench.build(write_tree(tmp_path, files), user=USER)

    assert (found.state, found.code) == (BuildState.FAILED, code), found
    assert found.reason
    assert any(line in each for each in found.lines) or not line, found.lines
    assert f" !     {found.reason.splitlines()[0]}" in bench.text(found.build_id)
    assert [path.name for path in bench.engine.dirs.work.iterdir()] == []


async def test_a_missing_and_a_damaged_upload(bench: Bench) -> None:
    missing = await bench.engine.run(bench.request(SourceSpec(kind="upload", digest="0" * 64)))
    (bench.engine.dirs.uploads / ("1" * 64)).write_bytes(b"x")
    damaged = await bench.engine.run(bench.request(SourceSpec(kind="upload", digest="1" * 64)))
    outside = await bench.engine.run(bench.request(SourceSpec(kind="upload", digest="../../etc/passwd")))
    assert [each.code for each in (missing, damaged, outside)] == ["upload_missing", "upload_damaged", "source_refused"]


def sleeper(tmp_path: Path, mark: str) -> Path:
    package = f'{{"scripts": {{"build": "echo begun; (setsid sleep {mark} &) ; sleep {mark}", "start": "x"}}}}'
    return write_tree(tmp_path, {"package.json": package})


async def test_cancelling_ends_the_processes_and_says_cancelled(bench: Bench, tmp_path: Path) -> None:
    mark = f"87654.{os.getpid()}"
    task = asyncio.create_task(bench.build(sleeper(tmp_path, mark), user=USER))
    await eventually(lambda: len(processes_with(f"sleep\0{mark}")) >= 2)
    status = bench.engine.status("b1")
    assert status is not None and (status.state, status.step) == (BuildState.RUNNING, "build")

    assert await bench.engine.cancel("b1")

    assert (await task).state is BuildState.CANCELLED
    assert processes_with(mark) == []
    assert list(bench.engine.dirs.work.iterdir()) == []
    assert bench.engine.status("b1") is None
    assert not await bench.engine.cancel("b1")


async def test_a_time_out_ends_the_processes_and_names_the_step(bench: Bench, tmp_path: Path) -> None:
    mark = f"87655.{os.getpid()}"
    found = await bench.build(sleeper(tmp_path, mark), user=USER, timeout_seconds=8.0, step_seconds={"build": 3600.0})
    assert (found.state, found.code) == (BuildState.TIMED_OUT, "timed_out")
    assert "within 8 s" in found.reason and "'build'" in found.reason
    assert "begun" in found.lines
    assert processes_with(mark) == []


async def test_a_step_that_takes_too_long_ends_with_its_processes_and_a_code_of_its_own(
    bench: Bench, tmp_path: Path
) -> None:
    mark = f"87657.{os.getpid()}"
    source = write_tree(sleeper(tmp_path, mark), {"rayfold.toml": "[build.timeouts]\nbuild = 2\n"})
    found = await bench.build(source, user=USER)
    assert (found.state, found.code) == (BuildState.FAILED, "step_timed_out")
    assert "'build' did not end within 2 s" in found.reason and "[build.timeouts]" in found.reason
    assert "begun" in found.lines
    assert processes_with(mark) == []


async def test_dependencies_that_a_registry_never_sends_end_with_their_own_step(bench: Bench, tmp_path: Path) -> None:
    source = write_tree(tmp_path, {"requirements.txt": "some-package==1.0\n", "app.py": ""})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        found = await bench.build(
            source, user=USER, env={"PIP_INDEX_URL": index}, timeout_seconds=60.0, step_seconds={"dependencies": 3.0}
        )
    assert (found.state, found.code) == (BuildState.FAILED, "step_timed_out")
    assert "'dependencies' did not end within 3 s" in found.reason
    assert [step.name for step in found.steps][-1] == "dependencies"
    assert list(bench.engine.dirs.work.iterdir()) == []


def test_a_steps_time_is_a_share_of_the_whole_unless_somebody_says_otherwise() -> None:
    def limit(step: str, **said: dict[str, float]) -> float | None:
        return step_seconds(step, whole=900.0, operator=said.get("operator", {}), source=said.get("source", {}))

    assert {step: limit(step) for step in STEPS} == {
        "source": 300.0, "dependencies": 600.0, "build": 600.0, "publish": 300.0
    }  # fmt: skip
    assert limit("detect") is None
    assert limit("build", operator={"build": 700.0}) == 700.0
    assert limit("build", operator={"build": 700.0}, source={"build": 50.0}) == 50.0
    assert limit("build", source={"build": 5000.0}) == 900.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[build.timeouts]\nsource = 5", "expected one of dependencies, build, publish, release, found 'source'"),
        ("[build.timeouts]\nbuild = 0", "expected seconds from 1 to 86400, found 0"),
        ("[build.timeouts]\nbuild = true", "expected seconds from 1 to 86400, found True"),
        ("[build]\ntimeouts = 5", "expected a table [build.timeouts]"),
    ],
)
def test_step_times_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        parse_settings(text)


async def test_no_more_than_the_limit_run_at_once_and_a_queued_one_can_be_cancelled(
    open_dir: Path, tmp_path: Path
) -> None:
    bench = Bench(open_dir, at_once=1)
    await bench.engine.start()
    mark = f"87656.{os.getpid()}"
    first = asyncio.create_task(bench.build(sleeper(tmp_path, mark), user=USER))
    await eventually(lambda: len(processes_with(f"sleep\0{mark}")) >= 2)
    second = asyncio.create_task(bench.build(EXAMPLES / "hello-static", user=USER))
    await eventually(lambda: bench.engine.status("b2") is not None)

    status = bench.engine.status("b2")
    assert status is not None and status.state is BuildState.QUEUED
    await bench.engine.cancel("b2")
    assert (await second).state is BuildState.CANCELLED
    with pytest.raises(BuilderError, match="running already"):
        await bench.engine.run(bench.request(SourceSpec(kind="upload", digest="0" * 64), build_id="b1"))
    await bench.engine.cancel("b1")
    assert (await first).state is BuildState.CANCELLED


async def test_lines_are_numbered_streamed_and_kept(bench: Bench) -> None:
    found = await bench.build(EXAMPLES / "hello-static", user=USER)
    streamed = bench.lines[found.build_id]
    assert [line.number for line in streamed] == list(range(1, found.log_lines + 1))
    assert await bench.engine.output(found.build_id) == streamed
    assert await bench.engine.output("../../etc/passwd") == []


async def test_output_over_the_limit_is_counted_and_said(bench: Bench, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"package.json": '{"scripts": {"build": "seq 1 5000", "start": "x"}}'})
    found = await bench.build(tree, user=USER, limits=BuildLimits(log_bytes=3000))
    assert found.state is BuildState.SUCCEEDED
    assert "more lines of output were left out" in bench.lines[found.build_id][-1].text


async def test_secrets_do_not_reach_the_log(bench: Bench, tmp_path: Path) -> None:
    script = "echo $API_TOKEN; echo https://ada:hunter2@host/x; printf user:$API_TOKEN | base64"
    tree = write_tree(tmp_path, {"package.json": f'{{"scripts": {{"build": "{script}", "start": "x"}}}}'})
    found = await bench.build(tree, user=USER, env={"API_TOKEN": "s3cr3t-value"})
    assert found.state is BuildState.SUCCEEDED, found
    kept = (bench.engine.dirs.logs / f"{found.build_id}.log").read_text()
    for text in (kept, bench.text(found.build_id)):
        assert "s3cr3t-value" not in text and "hunter2" not in text
        assert base64.b64encode(b"user:s3cr3t-value").decode()[8:20] not in text
        assert "https://****@host/x" in text


def test_the_longest_secret_is_masked_first() -> None:
    assert Mask({"A_TOKEN": "secret", "B_TOKEN": "secret-longer"})("x secret-longer y secret") == "x •••• y ••••"


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to run builds as another user")
async def test_a_build_reads_no_file_of_the_platform(bench: Bench, tmp_path: Path) -> None:
    secret = bench.root / "data" / "token"
    secret.write_text("platform-token")
    secret.chmod(0o600)
    data = bench.root / "data"
    script = f"cat {secret} {data}/logs/builds/*; ls {data}/cache/layers {bench.root}/node/builds; true"
    tree = write_tree(tmp_path, {"package.json": f'{{"scripts": {{"build": "{script}", "start": "x"}}}}'})
    found = await bench.build(tree, user=USER)
    text = bench.text(found.build_id)
    assert found.state is BuildState.SUCCEEDED, found
    assert text.count("Permission denied") >= 3 and "platform-token" not in text


async def test_kill_9_in_a_build_leaves_no_process_and_the_next_start_cleans_up(bench: Bench, tmp_path: Path) -> None:
    mark = f"87657.{os.getpid()}"
    tree = sleeper(tmp_path, mark)
    script = (
        "import asyncio; from pathlib import Path\n"
        "from actors.builder.engine import BuildDirs, BuildEngine\n"
        "from actors.builder.model import BuildRequest, SourceSpec\n"
        "async def main():\n"
        f"    engine = BuildEngine(BuildDirs.under(Path('{bench.root}/data'), Path('{bench.root}/node')))\n"
        "    await engine.start()\n"
        f"    source = SourceSpec(kind='directory', path='{tree}')\n"
        "    await engine.run(BuildRequest(build_id='killed', service_id='s', team='t', app='a', component='web',\n"
        f"        source=source, user={USER}))\n"
        "asyncio.run(main())\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", script], cwd=EXAMPLES.parent)
    try:
        await eventually(lambda: len(processes_with(f"sleep\0{mark}")) >= 2)
        await bench.engine.start()
        assert (bench.engine.dirs.work / "killed").exists(), "a living engine's directory is left alone"
        killed.kill()
        killed.wait()
        await eventually(lambda: processes_with(f"sleep\0{mark}") == [])
    finally:
        killed.kill()
    other = BuildEngine(BuildDirs.under(bench.root / "data", bench.root / "node"))
    await other.start()
    assert list(other.dirs.work.iterdir()) == []


async def test_many_builds_at_once_all_end(bench: Bench) -> None:
    started = time.monotonic()
    outcomes = await asyncio.gather(*(bench.build(EXAMPLES / "two-processes", user=USER) for _ in range(12)))
    assert {outcome.state for outcome in outcomes} == {BuildState.SUCCEEDED}
    assert len({outcome.artifact.digest for outcome in outcomes if outcome.artifact}) == 1
    assert time.monotonic() - started < 60
