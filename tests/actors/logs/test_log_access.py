"""What the access-log tail promises: each request's line once in its component's stream, through rotation."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from actors.logs.access import AccessTail
from actors.logs.client import LogClient
from actors.logs.filter import Query
from actors.logs.line import LogLine

A, B = "a" * 16, "b" * 16
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Gateway:
    """Writes and rotates as the gateway does: rename, then a new file at the first path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def write(self, service_id: str | None, **fields: object) -> None:
        self.count += 1
        record = {
            "at": f"2026-01-02T03:04:05.{self.count:06d}Z",
            "request_id": f"r{self.count}",
            "method": "GET",
            "host": "app.localhost",
            "path": f"/{self.count}",
            "status": 200,
            "duration_ms": 3,
            "bytes_out": 42,
            "service_id": service_id,
            "instance_id": "i-1" if service_id else None,
            "user_agent": None,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(record | fields) + "\n")

    def rotate(self, keep: int = 3) -> None:
        for number in range(keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.rename(self.path.with_name(f"{self.path.name}.1"))


async def stored(client: LogClient, stream: str) -> list[LogLine]:
    return (await client.query(Query(stream=stream, limit=10_000))).lines


def paths(lines: list[LogLine]) -> list[int]:
    return [int(line.text.split()[1][1:]) for line in lines]


async def test_requests_reach_their_components_streams(client: LogClient, tmp_path: Path, until: Until) -> None:
    gateway = Gateway(tmp_path / "log" / "access.log")
    gateway.path.parent.mkdir()
    tail = AccessTail(client, gateway.path, tmp_path / "state.json")
    await tail.start()
    for service_id in (A, B, None, A):
        gateway.write(service_id)
    with gateway.path.open("a") as file:
        file.write("not json\n")
    gateway.write("../../etc")
    gateway.write(A, path="/x\ny", status="503", flags="UF", instance_id=None)

    async def all_there() -> bool:
        return len(await stored(client, A)) == 3

    await until(all_there)
    lines = await stored(client, A)
    assert lines[0].text == "GET /1 200 3ms 42B host=app.localhost request_id=r1"
    assert (lines[0].source, lines[0].instance, lines[0].at) == ("router", "i-1", 1_767_323_045_000_001)
    assert lines[2].text.startswith("GET /x\ny 503") and lines[2].display().startswith("GET /x\\x0ay 503")
    assert paths(await stored(client, B)) == [2]
    assert (tail.stats.unrouted, tail.stats.malformed) == (1, 2)
    await tail.aclose()


async def test_rotation_and_restarts_neither_lose_nor_repeat(client: LogClient, tmp_path: Path, until: Until) -> None:
    gateway = Gateway(tmp_path / "access.log")
    state = tmp_path / "state.json"
    for round_ in range(8):
        tail = AccessTail(client, gateway.path, state)
        await tail.start()
        for _ in range(50):
            gateway.write(A)
            gateway.write(B)
        if round_ % 2:

            async def caught_up() -> bool:
                return len(await stored(client, A)) >= gateway.count // 2

            await until(caught_up)
        await tail.aclose()
        if round_ % 3 == 2:
            gateway.rotate()
        if round_ == 5:
            state.unlink()
    tail = AccessTail(client, gateway.path, state)
    await tail.start()

    async def all_there() -> bool:
        return len(await stored(client, A)) >= 400 and len(await stored(client, B)) >= 400

    await until(all_there)
    await tail.aclose()
    assert paths(await stored(client, A)) == list(range(1, 801, 2))
    assert paths(await stored(client, B)) == list(range(2, 801, 2))
