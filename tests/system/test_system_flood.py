"""Twenty clients flood the HTTP interface: what is too much is refused at once, memory stays bounded, others are heard.

The flood's requests are refused by the supervisor that they reach, so that it takes the whole way in and leaves nothing
in the log.
"""

import asyncio
import json
from collections import Counter

import aiohttp
import psutil
import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(240)]

CLIENTS = 20
MIB = 1 << 20
SECONDS = 12.0
# What may be held at once: bodies being read 128 MiB, commands waiting 64 MiB, in hand 64 MiB, of one team half. A body
# is there as bytes, as values and as a command; what the allocator keeps comes on top.
MOST_GROWTH = {"ApiServer": 600 * MIB, "LifecycleSupervisor": 400 * MIB}


def _body(size: int) -> bytes:
    """A change of configuration that the model refuses, of about so many bytes."""
    values = max(1, size // 60_000)
    return json.dumps({"set": {f"no name {n}": "x" * (size // values) for n in range(values)}}).encode()


class Flood:
    """What the clients sent and got, and how much memory it took meanwhile."""

    def __init__(self, platform: Platform, *, size: int, connections: int) -> None:
        self._url = f"http://127.0.0.1:{platform.api_port}" + platform.component("flooded", "config")
        self._token = platform.token
        self._body = _body(size)
        self._connections = connections
        self.statuses: Counter[int] = Counter()
        self.without_retry_after = 0
        self._over = asyncio.Event()

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session,
            asyncio.TaskGroup() as clients,
        ):
            for _ in range(CLIENTS * self._connections):
                clients.create_task(self._client(session))
            await asyncio.sleep(SECONDS)
            self._over.set()

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._over.is_set():
            try:
                async with session.patch(self._url, data=self._body) as answer:
                    self.statuses[answer.status] += 1
                    self.without_retry_after += answer.status == 429 and "Retry-After" not in answer.headers
                    await answer.read()
            except aiohttp.ClientError:
                self.statuses[0] += 1  # a refusal that was sent before the body had been, and the connection closed


class Memory:
    """The most that each kind of actor grew by while it was looked at, in bytes."""

    def __init__(self, platform: Platform) -> None:
        found = {name: platform.find(name) for name in MOST_GROWTH}
        self._processes = {name: process for name, process in found.items() if process is not None}
        assert self._processes.keys() == MOST_GROWTH.keys()
        self._before = {name: process.memory_info().rss for name, process in self._processes.items()}
        self.growth = dict.fromkeys(self._processes, 0)

    async def watch(self) -> None:
        while True:
            for name, process in self._processes.items():
                self.growth[name] = max(self.growth[name], process.memory_info().rss - self._before[name])
            await asyncio.sleep(0.1)

    @property
    def processes(self) -> list[psutil.Process]:
        return list(self._processes.values())


@pytest.mark.parametrize(("size", "connections"), [(MIB, 24), (2_000, 60)], ids=["large bodies", "many small ones"])
def test_twenty_clients_are_held_within_bounds_and_others_are_heard(
    platform: Platform, deploy: Deploy, told: list[str], size: int, connections: int
) -> None:
    if platform.visit("flooded").status != 200:
        deploy("flooded", apps.web("one"))
        assert platform.http("POST", "/v1/teams", {"name": "quiet"}).status == 201
        until("the team", lambda: platform.http("POST", "/v1/teams/quiet/apps", {"name": "small"}).status < 300)
    flood, memory = Flood(platform, size=size, connections=connections), Memory(platform)

    async def run() -> list[int]:
        watching = asyncio.create_task(memory.watch())
        flooding = asyncio.create_task(flood.run())
        await asyncio.sleep(1.0)
        heard = []
        while not flooding.done():
            answer = await asyncio.to_thread(platform.http, "GET", "/v1/teams/quiet/apps")
            made = await asyncio.to_thread(platform.http, "POST", "/v1/teams/quiet/apps", {"name": f"a{len(heard)}"})
            heard += [answer.status, made.status]
            await asyncio.sleep(0.2)
        await flooding
        watching.cancel()
        return heard

    heard = asyncio.run(run())

    told.append(
        f"flood of {CLIENTS} clients, {connections} connections each, {size} bytes: {dict(flood.statuses)}, "
        f"growth { ({name: grown // MIB for name, grown in memory.growth.items()}) } MiB, others heard {Counter(heard)}"
    )
    assert flood.statuses.keys() <= {0, 422, 429}, "refused for what it is, or for there being too many"
    assert flood.statuses[422] > 0, "the flood reached the supervisor"
    assert flood.without_retry_after == 0
    assert heard and all(status < 300 or status == 409 for status in heard), "another team is not refused"
    assert all(memory.growth[name] <= most for name, most in MOST_GROWTH.items()), memory.growth
    assert all(process.is_running() for process in memory.processes)
    if size == MIB:
        assert flood.statuses[429] > 0
