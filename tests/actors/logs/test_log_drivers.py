"""Other places for log lines: Debian's rsyslog, and servers of our own that speak the documented shapes.

Elasticsearch's bulk and Loki's push requests are answered as their documents say, by no more than that.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.drivers.named import driver_for
from actors.logs.drivers.port import BadDriver, DriverAway, DriverRefused, Origin
from actors.logs.drivers.syslog import SyslogDriver
from actors.logs.line import LineRecord, LogLine, numbered
from tests.actors.logs.test_log_collector import Instance
from tests.toolchains import need

ORIGIN = Origin(team="red", app="shop", component="web", node="n-1")
STREAM = "0123456789abcdef"
LINES = [
    numbered(LineRecord(at=1_764_200_000_000_000 + n, text=text, stream="o", instance="i-1", release=3), n)
    for n, text in enumerate(["one", "two \u00e9", "Trace\n  more"], 1)
]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Peer:
    """An HTTP server that keeps what it is sent and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.logins: list[str] = []
        self.answers: list[tuple[int, object]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((request.path, await request.read()))
        self.logins.append(request.headers.get("Authorization", ""))
        status, body = self.answers.pop(0) if self.answers else (200, {"errors": False, "items": []})
        return web.json_response(body, status=status)


@pytest.fixture
async def peer() -> AsyncIterator[tuple[Peer, int]]:
    peer, app = Peer(), web.Application()
    app.router.add_post("/{path:.*}", peer.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield peer, runner.addresses[0][1]
    await runner.cleanup()


async def test_elasticsearch_has_each_line_once_by_its_id(peer: tuple[Peer, int]) -> None:
    server, port = peer
    driver = driver_for(f"elasticsearch+http://127.0.0.1:{port}/logs", ORIGIN)
    await driver.send(STREAM, LINES)
    path, body = server.got[0]
    rows = [json.loads(row) for row in body.splitlines()]
    assert path == "/_bulk" and rows[0] == {"create": {"_index": "logs", "_id": f"{STREAM}-1"}}
    assert rows[3]["message"] == "two \u00e9" and rows[3]["component"] == "web" and rows[3]["number"] == 2
    assert rows[1]["@timestamp"] == 1_764_200_000_000
    server.answers = [(200, {"errors": True, "items": [{"create": {"status": 409, "error": {"type": "conflict"}}}]})]
    await driver.send(STREAM, LINES)
    server.answers = [(200, {"errors": True, "items": [{"create": {"status": 429}}]})]
    with pytest.raises(DriverAway):
        await driver.send(STREAM, LINES)
    server.answers = [(200, {"errors": True, "items": [{"create": {"status": 400, "error": {"type": "mapper"}}}]})]
    with pytest.raises(DriverRefused, match="mapper"):
        await driver.send(STREAM, LINES)
    await driver.aclose()


async def test_loki_is_pushed_labels_and_lines(peer: tuple[Peer, int]) -> None:
    server, port = peer
    driver = driver_for(f"loki+http://127.0.0.1:{port}", ORIGIN)
    await driver.send(STREAM, LINES)
    path, body = server.got[0]
    [pushed] = json.loads(body)["streams"]
    assert path == "/loki/api/v1/push"
    assert pushed["stream"] == {
        "team": "red", "app": "shop", "component": "web", "node": "n-1", "source": "app", "output": "stdout"
    }  # fmt: skip
    assert pushed["values"][0] == ["1764200000000001000", "one", {"number": "1", "instance": "i-1", "release": "3"}]
    server.answers = [(503, {})]
    with pytest.raises(DriverAway):
        await driver.send(STREAM, LINES)
    server.answers = [(400, {"message": "entry too far behind"})]
    with pytest.raises(DriverRefused, match="too far behind"):
        await driver.send(STREAM, LINES)
    await driver.aclose()


def test_what_is_no_drain_is_refused_without_showing_its_secrets() -> None:
    for url in ("http://u:secret@h/", "ftp://u:secret@h/", "secret", "loki+syslog://h:1", "https://"):
        with pytest.raises(BadDriver) as refused:
            driver_for(url, ORIGIN)
        assert "secret" not in str(refused.value)


async def test_a_collector_drains_every_line_in_order_though_the_peer_fails(
    client: LogClient, tmp_path: Path, peer: tuple[Peer, int]
) -> None:
    server, port = peer
    server.answers = [(500, {}), (429, {})]
    instance = Instance(tmp_path)
    url = f"elasticsearch+http://127.0.0.1:{port}/logs"
    followed = msgspec.structs.replace(instance.followed(), drains=(url, "nonsense"), whose=ORIGIN)
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(followed)
    for n in range(300):
        instance.print(f"line {n}\n".encode())
    instance.exit()
    assert await collector.drained("i-1", 60)
    await collector.aclose()
    found: dict[str, str] = {}
    for _, body in server.got:
        rows = [json.loads(row) for row in body.splitlines()]
        found |= {action["create"]["_id"]: row["message"] for action, row in zip(rows[::2], rows[1::2], strict=True)}
    assert found == {f"{STREAM}-{n + 1}": f"line {n}" for n in range(300)}


@pytest.mark.servers
async def test_rsyslog_writes_what_it_is_sent(tmp_path: Path, until: Until) -> None:
    need("rsyslogd")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "out.log"
    template = "%syslogseverity%|%timereported:::date-rfc3339%|%hostname%|%app-name%|%procid%|%msgid%|"
    template += "%structured-data%|%msg%"
    (tmp_path / "conf").write_text(
        'global(parser.escapeControlCharactersOnReceive="off")\n'
        f'module(load="imtcp")\ninput(type="imtcp" address="127.0.0.1" port="{port}" ruleset="r")\n'
        f'template(name="t" type="string" string="{template}\\n")\n'
        f'ruleset(name="r") {{ action(type="omfile" file="{out}" template="t") }}\n'
    )
    arguments = ("-n", "-f", str(tmp_path / "conf"), "-i", str(tmp_path / "pid"))
    process = await asyncio.create_subprocess_exec("rsyslogd", *arguments)
    driver = SyslogDriver("127.0.0.1", port, ORIGIN)
    try:
        await until(lambda: _sent(driver, LINES))

        async def written() -> bool:
            return out.exists() and "more" in out.read_text()

        await until(written)
    finally:
        process.terminate()
        await process.wait()
        await driver.aclose()
    first, second = out.read_text().splitlines()[:2]
    data = f'[rayfold@32473 stream="{STREAM}" number="1" release="3"]'
    assert first == f"6|2025-11-26T23:33:20.000001Z|n-1|red/shop/web|i-1|app|{data}|one"
    assert second.endswith("|two \u00e9")
    with pytest.raises(DriverAway):
        await driver.send(STREAM, LINES)


async def _sent(driver: SyslogDriver, lines: list[LogLine]) -> bool:
    try:
        await driver.send(STREAM, lines)
    except DriverAway:
        return False
    return True
