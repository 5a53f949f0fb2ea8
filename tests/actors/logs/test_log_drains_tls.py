"""Drains over TLS: rsyslog and an HTTPS server, with certificates of a trusted authority and of another."""

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.drivers.named import driver_for
from actors.logs.drivers.port import Driver, DriverAway
from actors.logs.errors import BadQuery
from actors.logs.rules import LinesSettings, TeamLines
from events.log.pki import Pki, ensure_pki
from tests.actors.logs.test_log_collector import Instance
from tests.actors.logs.test_log_drivers import LINES, ORIGIN, STREAM, Peer
from tests.toolchains import need

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
SYSLOG = Path("/usr/lib")


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pki:
    """An authority that this process trusts, and a server's certificate of it for localhost."""
    pki = ensure_pki(tmp_path / "pki")
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.ca_cert))
    return pki


@pytest.fixture
async def secure_peer(pki: Pki) -> AsyncIterator[tuple[Peer, int]]:
    peer, app = Peer(), web.Application()
    app.router.add_post("/{path:.*}", peer.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.server_cert, pki.server_key)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield peer, runner.addresses[0][1]
    await runner.cleanup()


async def test_lines_of_json_reach_an_https_server_with_the_password(secure_peer: tuple[Peer, int]) -> None:
    server, port = secure_peer
    driver = driver_for(f"https://ann:pass@localhost:{port}/in", ORIGIN)
    server.answers = [(503, {})]
    with pytest.raises(DriverAway, match="503"):
        await driver.send(STREAM, LINES)
    await driver.send(STREAM, LINES)
    path, body = server.got[-1]
    rows = [json.loads(row) for row in body.splitlines()]
    assert path == "/in" and [row["message"] for row in rows] == [line.text for line in LINES]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert set(server.logins) == {f"Basic {base64.b64encode(b'ann:pass').decode()}"}
    await driver.aclose()


@pytest.mark.parametrize("scheme", ["https", "elasticsearch+https", "loki+https"])
async def test_a_certificate_of_a_stranger_or_for_another_host_gets_nothing(
    secure_peer: tuple[Peer, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server, port = secure_peer
    named_otherwise = driver_for(f"{scheme}://127.0.0.2:{port}/logs", ORIGIN)
    with pytest.raises(DriverAway):
        await named_otherwise.send(STREAM, LINES)
    monkeypatch.setenv("SSL_CERT_FILE", str(ensure_pki(tmp_path / "others").ca_cert))
    untrusted = driver_for(f"{scheme}://localhost:{port}/logs", ORIGIN)
    with pytest.raises(DriverAway, match="certificate"):
        await untrusted.send(STREAM, LINES)
    assert server.got == []
    for driver in (named_otherwise, untrusted):
        await driver.aclose()


async def test_a_collector_drains_over_https_each_line_with_its_number(
    client: LogClient, tmp_path: Path, secure_peer: tuple[Peer, int]
) -> None:
    server, port = secure_peer
    server.answers = [(429, {}), (500, {})]
    instance = Instance(tmp_path)
    followed = msgspec.structs.replace(
        instance.followed(), drains=(f"https://localhost:{port}/in",), whose=ORIGIN
    )  # fmt: skip
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(followed)
    for n in range(300):
        instance.print(f"line {n}\n".encode())
    instance.exit()
    assert await collector.drained("i-1", 60)
    await collector.aclose()
    rows = [json.loads(row) for _, body in server.got for row in body.splitlines()]
    assert {row["number"]: row["message"] for row in rows} == {n + 1: f"line {n}" for n in range(300)}


@pytest.mark.servers
async def test_rsyslog_takes_lines_over_tls(tmp_path: Path, pki: Pki, until: Until) -> None:
    need("rsyslogd")
    if not list(SYSLOG.glob("*/rsyslog/lmnsd_ossl.so")):
        pytest.skip("rsyslogd's TLS is not installed: apt-get install rsyslog-openssl")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = tmp_path / "out.log"
    (tmp_path / "conf").write_text(
        f'global(parser.escapeControlCharactersOnReceive="off" defaultNetstreamDriverCAFile="{pki.ca_cert}" '
        f'defaultNetstreamDriverCertFile="{pki.server_cert}" defaultNetstreamDriverKeyFile="{pki.server_key}")\n'
        'module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="r")\n'
        'template(name="t" type="string" string="%app-name%|%procid%|%structured-data%|%msg%\\n")\n'
        f'ruleset(name="r") {{ action(type="omfile" file="{out}" template="t") }}\n'
    )
    arguments = ("-n", "-f", str(tmp_path / "conf"), "-i", str(tmp_path / "pid"))
    process = await asyncio.create_subprocess_exec("rsyslogd", *arguments)
    driver = driver_for(f"syslog+tls://localhost:{port}", ORIGIN)
    plain = driver_for(f"syslog://localhost:{port}", ORIGIN)
    try:
        await until(lambda: _sent(driver))

        async def written() -> bool:
            return out.exists() and "more" in out.read_text()

        await until(written)
        await _sent(plain)
    finally:
        process.terminate()
        await process.wait()
        for each in (driver, plain):
            await each.aclose()
    first, second = out.read_text().splitlines()[:2]
    assert first == f'red/shop/web|i-1|[rayfold@32473 stream="{STREAM}" number="1" release="3"]|one'
    assert second.endswith("|two \u00e9")
    assert out.read_text().count("|one") == 1, "what came in clear was not taken"


async def _sent(driver: Driver) -> bool:
    try:
        await driver.send(STREAM, LINES)
    except DriverAway:
        return False
    return True


def test_the_operator_names_drains_for_everybody_and_for_a_team() -> None:
    lines = LinesSettings(drains=("https://all/",), teams={"red": TeamLines(drains=("syslog+tls://red",))})
    lines.check()
    assert lines.drains_of("red") == ("https://all/", "syslog+tls://red")
    assert lines.drains_of("blue") == ("https://all/",)
    with pytest.raises(BadQuery, match="log drain"):
        LinesSettings(teams={"red": TeamLines(drains=("http://u:secret@h",))}).check()
