"""The gateway and its Envoy die and come back, each without the other. Real Envoy, real kill -9."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from actors.gateway.access_log import AccessLogFile
from actors.gateway.catalog import EDS
from actors.gateway.envoy import EnvoyProcess, EnvoySettings
from actors.gateway.errors import EnvoyStartError, GatewaySettingsError, NotAppliedError, RejectedByEnvoyError
from actors.gateway.gateway import Gateway, GatewaySettings
from actors.gateway.table import EndpointSpec
from events import failpoints
from events.log.records import Position

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.servers


async def test_a_gateway_that_starts_anew_adopts_envoy_and_disturbs_nothing(site, upstream, eventually) -> None:
    snapshot = site.component("web", await upstream("web"))
    await site.open(snapshot)
    pid = (await site.gateway.health()).envoy_pid
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        load = group.create_task(site.load("web.localhost", stop))
        await site.gateway.close()
        assert (await site.ask("web.localhost")).body == "web"

        site.gateway = Gateway(site.settings)
        assert await site.gateway.start() is True

        async def connected() -> bool:
            return (await site.gateway.health()).connected

        await eventually(connected)
        # Not caught up yet: Envoy keeps what it has, and nothing is said to be applied.
        assert (await site.ask("web.localhost")).body == "web"
        site.gateway.apply([snapshot])
        with pytest.raises(NotAppliedError):
            await site.gateway.wait_applied(snapshot.position, 0.2)
        site.gateway.ready()
        await site.gateway.wait_applied(snapshot.position, 10)
        stop.set()

    assert site.gateway.sent == (0, 0)
    assert (await site.gateway.health()).envoy_pid == pid
    assert set(load.result().statuses) == {200}


async def test_an_adopted_envoy_is_told_what_changed_meanwhile(site, upstream) -> None:
    old, new = await upstream("old"), await upstream("new")
    await site.open(site.component("web", old), site.component("gone", old))
    await site.gateway.close()

    site.gateway = Gateway(site.settings)
    await site.open(site.component("web", new))

    assert (await site.ask("web.localhost")).body == "new"
    assert (await site.ask("gone.localhost")).status == 404


GATEWAY_OF_ITS_OWN = """
import asyncio, sys
import msgspec
from actors.gateway.gateway import Gateway, GatewaySettings
from actors.gateway.table import ComponentRouting

async def main():
    gateway = Gateway(msgspec.json.decode(sys.argv[1], type=GatewaySettings, dec_hook=lambda kind, text: kind(text)))
    snapshot = msgspec.json.decode(sys.argv[2], type=ComponentRouting)
    await gateway.start()
    gateway.apply([snapshot])
    gateway.ready()
    await gateway.wait_applied(snapshot.position, 20)
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_gateway_killed_without_warning_leaves_envoy_serving_and_is_followed_by_another(site, upstream) -> None:
    snapshot = site.component("web", await upstream("web"))
    arguments = [msgspec.json.encode(site.settings, enc_hook=str).decode(), msgspec.json.encode(snapshot).decode()]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY_OF_ITS_OWN, *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    async with asyncio.timeout(20):
        while b"up" not in await child.stdout.readline():
            assert child.returncode is None
    child.kill()
    await child.wait()
    assert (await site.ask("web.localhost")).body == "web"

    assert await site.gateway.start() is True
    site.gateway.apply([snapshot])
    site.gateway.ready()
    await site.gateway.wait_applied(snapshot.position, 10)
    assert site.gateway.sent == (0, 0)
    assert (await site.ask("web.localhost")).body == "web"


async def test_a_new_listener_reaches_an_adopted_envoy_and_fails_no_request(site, upstream) -> None:
    web = await upstream("web")
    await site.open(site.component("web", web))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        load = group.create_task(site.load("web.localhost", stop))
        await web.entered.wait()
        await site.gateway.close()
        site.gateway = Gateway(msgspec.structs.replace(site.settings, stream_idle=77.0))
        await site.open(site.component("web", web))
        seen = web.requests
        async with asyncio.timeout(10):
            while web.requests < seen + 100:
                await asyncio.sleep(0.01)
        stop.set()

    assert set(load.result().statuses) == {200}
    assert site.gateway.rejections() == ()


async def test_a_killed_envoy_is_started_again_with_the_same_table(site, upstream, eventually) -> None:
    await site.open(site.component("web", await upstream("web")))
    before = await site.gateway.health()
    os.kill(before.envoy_pid, signal.SIGKILL)

    async def serves() -> bool:
        health = await site.gateway.health()
        if not (health.connected and health.serving and health.envoy_pid != before.envoy_pid):
            return False
        # Counted when it has answered to the supervisor, which may be after it answers here.
        return (await site.ask("web.localhost")).body == "web" and health.restarts == 1

    async def restarted() -> bool:
        try:
            return await serves()
        except OSError:
            return False

    await eventually(restarted)
    assert site.gateway.applied() == {0: 1}


async def test_envoy_is_no_child_of_ours_and_survives_on_its_own(site) -> None:
    await site.open(site.component("web"))
    process = psutil.Process((await site.gateway.health()).envoy_pid)

    assert process.pid not in [child.pid for child in psutil.Process().children(recursive=True)]
    assert os.getsid(process.pid) != os.getsid(0)


async def test_a_pid_that_another_process_took_over_is_not_touched(site, upstream) -> None:
    await site.open(site.component("web", await upstream("web")))
    await site.gateway.stop()
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    (site.settings.run_dir / "envoy.pid").write_text(str(stranger.pid))

    site.gateway = Gateway(site.settings)
    assert await site.gateway.start() is False
    await site.gateway.stop()

    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


async def test_a_refusal_is_visible_and_holds_nothing_else_back(site, upstream) -> None:
    web = await upstream("web")
    await site.open(site.component("web", web), site.component("other", web))
    bad = site.component("web", EndpointSpec(instance_id="bad", host="no-ip-address", port=80))
    other = await upstream("other")

    site.gateway.apply([bad, site.component("other", other)])
    with pytest.raises(RejectedByEnvoyError, match="no-ip-address"):
        await site.gateway.wait_applied(bad.position, 10)
    with pytest.raises(RejectedByEnvoyError):
        await site.gateway.wait_applied(Position(0, 1), 10, "web")
    await site.gateway.wait_applied(Position(0, bad.position.offset + 1), 10)

    (rejection,) = (await site.gateway.health()).rejections
    assert (rejection.type_url, rejection.name) == (EDS, "web")
    assert (await site.ask("other.localhost")).body == "other"
    assert (await site.ask("web.localhost")).body == "web"

    better = site.component("web", other)
    await site.serve(better)
    await site.gateway.wait_applied(better.position, 10, "web")
    assert site.gateway.rejections() == ()
    assert (await site.ask("web.localhost")).body == "other"


async def test_three_thousand_routes_and_one_change_sends_one_resource(site, upstream) -> None:
    web = await upstream("web")
    await site.open(*(site.component(f"c{number}", web) for number in range(3000)))
    _, before = site.gateway.sent
    other = await upstream("other")

    await site.serve(site.component("c1234", other))
    _, endpoint = site.gateway.sent
    await site.serve(site.component("brand-new", other))
    _, route = site.gateway.sent

    assert (await site.ask("c1234.localhost")).body == (await site.ask("brand-new.localhost")).body == "other"
    assert (await site.ask("c2999.localhost")).body == "web"
    assert endpoint - before == 1
    assert route - endpoint == 3  # its cluster, its endpoints, its host


async def test_positions_without_routing_are_applied_too(site) -> None:
    await site.open(site.component("web"))
    site.gateway.advance(7, 41)

    await site.gateway.wait_applied(Position(7, 41), 5)
    assert site.gateway.applied() == {0: 1, 7: 41}


async def test_a_full_access_log_is_moved_aside_without_losing_a_line(site, upstream, eventually) -> None:
    await site.open(site.component("web", await upstream("web")))
    for _ in range(20):
        await site.ask("web.localhost")
    log = site.settings.access_log

    async def full() -> bool:
        return log.exists() and log.stat().st_size > 1000

    await eventually(full)
    assert await AccessLogFile(log, 1000, 2, site.gateway._envoy.admin).rotate_if_full()
    for _ in range(20):
        await site.ask("web.localhost")

    async def all_there() -> bool:
        files = [log, log.with_name("access.log.1")]
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists()) == 40

    await eventually(all_there)
    assert log.stat().st_size > 0


async def test_an_open_run_directory_is_refused(site) -> None:
    site.settings.run_dir.mkdir(mode=0o755)

    with pytest.raises(GatewaySettingsError, match="chmod 700"):
        await site.gateway.start()


async def test_a_socket_path_that_is_too_long_is_refused(directory) -> None:
    settings = GatewaySettings(run_dir=directory / ("x" * 100), envoy_log=directory / "e", access_log=directory / "a")

    with pytest.raises(GatewaySettingsError, match="at most 107 bytes"):
        Gateway(settings)


async def test_an_envoy_that_does_not_start_says_why(directory) -> None:
    run = directory / "run"
    run.mkdir(mode=0o700)
    process = EnvoyProcess(EnvoySettings(run_dir=run, log_file=directory / "envoy.log"))
    process.admin_socket.mkdir()  # in the way of the socket

    with pytest.raises(EnvoyStartError, match="admin"):
        await process.ensure()
    assert process.pid is None


async def test_an_envoy_that_was_started_otherwise_is_replaced(site, upstream) -> None:
    await site.open(site.component("web", await upstream("web")))
    before = (await site.gateway.health()).envoy_pid
    await site.gateway.close()

    site.gateway = Gateway(msgspec.structs.replace(site.settings, node_id="another"))
    assert await site.gateway.start() is False
    assert (await site.gateway.health()).envoy_pid != before
    assert not psutil.pid_exists(before) or psutil.Process(before).status() == psutil.STATUS_ZOMBIE


async def test_a_gateway_killed_just_after_it_started_envoy_leaves_one_that_is_adopted(site) -> None:
    failpoints.arm("gateway.envoy.started", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await site.gateway.start()
    finally:
        failpoints.disarm("gateway.envoy.started")

    site.gateway = Gateway(site.settings)
    assert await site.gateway.start() is True


async def test_a_second_gateway_in_the_same_directory_is_refused(site) -> None:
    await site.open(site.component("web"))

    with pytest.raises(GatewaySettingsError, match="only gateway"):
        await Gateway(site.settings).start()


async def test_a_port_that_is_taken_is_said_at_once(site) -> None:
    with socket.create_server(("127.0.0.1", site.port)), pytest.raises(GatewaySettingsError, match="--gateway-port"):
        await site.gateway.start()


async def test_a_port_taken_later_is_reported_and_opened_when_it_is_free(site, upstream) -> None:
    await site.gateway.start()
    snapshot = site.component("web", await upstream("web"))
    with socket.create_server(("127.0.0.1", site.port)):
        site.gateway.apply([snapshot])
        site.gateway.ready()
        with pytest.raises(RejectedByEnvoyError, match="bind"):
            await site.gateway.wait_applied(snapshot.position, 1)

    await site.gateway.wait_applied(snapshot.position, 10)
    assert (await site.ask("web.localhost")).body == "web"


async def test_a_bind_address_that_is_no_address_is_refused(site) -> None:
    with pytest.raises(GatewaySettingsError, match="IP address"):
        Gateway(msgspec.structs.replace(site.settings, bind="localhost"))
