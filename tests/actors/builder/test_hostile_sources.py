"""Sources that mean harm, as whole builds: what they try is contained and explained, and nothing leaks."""

import hashlib
import io
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.builder.model import GIB, MIB, BuildLimits, BuildOutcome, BuildState, SourceSpec
from actors.builder.unpack import unpack_artifact
from tests.actors.builder.conftest import Bench, processes_with, write_tree

pytestmark = pytest.mark.servers
USER = (70024, 70024) if os.getuid() == 0 else None


def script(command: str) -> dict[str, str]:
    """A source whose build script is `command`."""
    return {"package.json": '{"scripts": {"build": "sh build.sh", "start": "x"}}', "build.sh": command + "\n"}


async def build_tar(bench: Bench, *members: tuple[tarfile.TarInfo, bytes]) -> BuildOutcome:
    """Upload a tar of exactly these members, whatever their headers say, and build it."""
    out = io.BytesIO()
    for info, content in members:
        out.write(info.tobuf() + content + b"\0" * (-len(content) % 512))
    out.write(b"\0" * 1024)
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    bench.engine.dirs.uploads.mkdir(parents=True, exist_ok=True)
    (bench.engine.dirs.uploads / digest).write_bytes(out.getvalue())
    return await bench.engine.run(bench.request(SourceSpec(kind="upload", digest=digest), user=USER))


def member(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    "info",
    [
        member("../outside"),
        member("/etc/outside"),
        member("leak", kind=tarfile.SYMTYPE, target="/etc/passwd"),
        member("leak", kind=tarfile.SYMTYPE, target="../../../../etc/passwd"),
        member("leak", kind=tarfile.LNKTYPE, target="/etc/passwd"),
        member("device", kind=tarfile.CHRTYPE),
        member("huge", size=10 * GIB),
        member("huge", kind=tarfile.GNUTYPE_SPARSE, size=10 * GIB),
    ],
    ids=["climbs", "absolute", "link", "climbing-link", "hard-link", "device", "10-gb", "10-gb-sparse"],
)
async def test_an_archive_that_reaches_out_or_is_a_bomb_is_refused(bench: Bench, info: tarfile.TarInfo) -> None:
    page = b"<p>harmless</p>"
    found = await build_tar(bench, (member("index.html", size=len(page)), page), (info, b""))
    assert (found.state, found.artifact) == (BuildState.FAILED, None)
    assert found.code in ("source_refused", "source_too_big"), found
    assert not (bench.root / "outside").exists() and not Path("/etc/outside").exists()
    assert list(bench.engine.dirs.work.iterdir()) == []


async def test_a_sparse_file_of_10_gb_made_by_a_build_is_refused(bench: Bench, tmp_path: Path) -> None:
    tree = write_tree(tmp_path, script("truncate -s 10G big || dd if=/dev/zero of=big bs=1 count=1 seek=10G"))
    found = await bench.build(tree, user=USER)
    assert (found.state, found.code) == (BuildState.FAILED, "file_too_big"), found


async def test_a_fork_bomb_ends_and_leaves_no_process(bench: Bench, tmp_path: Path) -> None:
    mark = f"98765{os.getpid()}"
    bomb = f"bomb() {{ sleep {mark} & bomb & bomb & }}\nbomb\nwait\nexit 3"
    limits = BuildLimits(processes=100)
    found = await bench.build(write_tree(tmp_path, script(bomb)), user=USER, limits=limits, timeout_seconds=20.0)
    assert found.state in (BuildState.FAILED, BuildState.TIMED_OUT), found
    assert found.code in ("too_many_processes", "timed_out", "step_timed_out", "build_script_failed"), found
    assert processes_with(mark) == []


@pytest.mark.root
async def test_a_build_reads_no_token_no_upload_no_cache_and_no_other_build(bench: Bench, tmp_path: Path) -> None:
    if USER is None:
        pytest.skip("without root a build runs as the platform's own user: rayfold doctor says so")
    data = bench.root / "data"
    tokens = data / "tokens"
    tokens.mkdir(mode=0o700, parents=True)
    (tokens / "admin").write_text("the-administrators-token")
    (tokens / "admin").chmod(0o600)
    other = await bench.build(
        write_tree(tmp_path / "other", {"index.html": "what the other team built"}), user=(70025, 70025), team="other"
    )
    assert other.artifact is not None
    await unpack_artifact(bench.engine.store, other.artifact.digest, bench.root / "node", 70025)
    places = [data / name for name in ("tokens/admin", "uploads/*", "artifacts/*/*", "cache/layers/*", "logs/builds/*")]
    places += [bench.root / "node/artifacts/*/*/app/*", bench.root / "node/layers/*/*/*", Path("/etc/shadow")]
    places += [Path("/proc") / str(os.getpid()) / name for name in ("environ", "maps")]
    reads = "\n".join(f"cat {place} 2>/dev/null && echo READ-SOMETHING" for place in places)
    lists = "\n".join(f"ls {place.parent} 2>/dev/null | grep -q . && echo LISTED-SOMETHING" for place in places[:5])
    found = await bench.build(write_tree(tmp_path / "spy", script(f"{reads}\n{lists}\nexit 0")), user=USER)

    assert found.state is BuildState.SUCCEEDED, found
    output = bench.text(found.build_id).split("Running the build script")[1]
    assert "READ-SOMETHING" not in output and "LISTED-SOMETHING" not in output
    assert "the-administrators-token" not in output and "other team" not in output


@pytest.mark.root
async def test_links_and_hard_links_that_a_build_makes_leak_nothing(bench: Bench, tmp_path: Path) -> None:
    if USER is None:
        pytest.skip("without root there is no file that the build's user cannot read")
    secret = bench.root / "secret"
    secret.write_text("platform-only")
    secret.chmod(0o600)
    linked = await bench.build(write_tree(tmp_path / "a", script(f"ln -s {secret} leak; ln -s /etc leak2")), user=USER)
    hard = await bench.build(write_tree(tmp_path / "b", script(f"ln {secret} leak; exit 0")), user=USER)

    for found in (linked, hard):
        if found.artifact is None:
            assert found.code in ("foreign_file", "source_refused", "artifact_error"), found
            continue
        try:
            path = await unpack_artifact(bench.engine.store, found.artifact.digest, bench.root / "node", USER[1])
        except Exception as error:  # refused where it would be unpacked: as good
            assert "outside" in str(error)
            continue
        held = path / "app/leak"
        assert held.is_symlink() or not held.exists() or held.read_text() != "platform-only"


async def test_a_procfile_with_shell_tricks_runs_nothing_while_it_is_built(bench: Bench, tmp_path: Path) -> None:
    mark = bench.root / "ran"
    tricks = f"web: $(touch {mark}) `touch {mark}`; touch {mark} && python app.py | tee {mark}\nrelease: touch {mark}\n"
    tree = write_tree(tmp_path, {"requirements.txt": "", "app.py": "", "Procfile": tricks})
    found = await bench.build(tree, user=USER)
    assert found.artifact is not None, found
    assert not mark.exists()
    assert found.artifact.processes["web"].startswith("$(touch")  # kept as it is: only the application's user runs it

    refused = await bench.build(write_tree(tmp_path, {"Procfile": "web: x\n$(touch y): z\n"}), user=USER)
    assert refused.code == "procfile_invalid"


async def test_secrets_that_a_build_echoes_are_masked_everywhere(bench: Bench, tmp_path: Path) -> None:
    secret = "s3cr3t-value-of-the-token"
    command = "echo error: $API_TOKEN; env; echo https://user:$API_TOKEN@example.org/x failed; exit 1"
    found = await bench.build(write_tree(tmp_path, script(command)), user=USER, env={"API_TOKEN": secret})
    kept = (bench.engine.dirs.logs / f"{found.build_id}.log").read_text()
    for told in (bench.text(found.build_id), kept, found.reason, "\n".join(found.lines)):
        assert secret not in told
    assert "error: ••••" in kept


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """A loopback service of the machine that notes who reaches it."""
    reached: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        try:
            while True:
                connection, address = server.accept()
                reached.append(str(address))
                connection.close()
        except OSError:
            return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], reached
    server.close()


@pytest.mark.root
async def test_a_build_script_reaches_no_network_and_no_service_of_the_machine(
    bench: Bench, tmp_path: Path, listener: tuple[int, list[str]]
) -> None:
    if USER is None:
        pytest.skip("only root can take the network away")
    port, reached = listener
    probe = (
        "import socket\n"
        f"for place in (('127.0.0.1', {port}), ('192.0.2.1', 80)):\n"
        "    try:\n        socket.create_connection(place, 3)\n        print('REACHED', place)\n"
        "    except OSError as error:\n        print('DENIED', error)\n"
        "mine = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(mine.getsockname(), 3)\nprint('loopback of its own')\n"
    )
    files = script("python3 probe.py") | {"probe.py": probe}
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    output = bench.text(found.build_id)
    if "cannot be taken away" in output:
        pytest.skip("this container may not make network namespaces")
    assert "REACHED" not in output and reached == []
    assert output.count("DENIED") == 2 and "loopback of its own" in output


async def test_a_build_that_fills_its_log_or_its_artifact_is_bounded(bench: Bench, tmp_path: Path) -> None:
    limits = BuildLimits(log_bytes=100_000, artifact_bytes=4 * MIB)
    loud = await bench.build(
        write_tree(tmp_path / "a", script("yes | head -n 200000; exit 1")), user=USER, limits=limits
    )
    big = await bench.build(
        write_tree(tmp_path / "b", script("head -c 5000000 /dev/urandom > big")), user=USER, limits=limits
    )
    assert (bench.engine.dirs.logs / f"{loud.build_id}.log").stat().st_size < 4_000_000
    assert "left out" in bench.text(loud.build_id)
    assert big.code == "artifact_too_big"


@pytest.mark.root
async def test_links_in_the_way_of_the_platforms_own_files_are_not_followed(bench: Bench, tmp_path: Path) -> None:
    if USER is None:
        pytest.skip("without root the platform writes nothing that the build's user could not")
    victim = bench.root / "victim"
    victim.mkdir(mode=0o700)
    (victim / ".cache").mkdir()
    (victim / ".cache" / "kept").write_text("kept")
    build = (
        f"rm -rf .rayfold; ln -s {victim} .rayfold; mkdir out; echo page > out/index.html; ln -s {victim} node_modules"
    )
    files = script(build) | {"rayfold.toml": '[build]\nroot = "out"\n'}
    found = await bench.build(write_tree(tmp_path, files), user=USER)

    assert found.artifact is not None, found
    assert sorted(path.name for path in victim.iterdir()) == [".cache"]
    assert (victim / ".cache" / "kept").read_text() == "kept"
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (0, 0o700)
