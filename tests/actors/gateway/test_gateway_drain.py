"""A gateway that is to go: its port shuts, what is in flight is answered, then nothing of it is left. Real Envoy."""

import asyncio

import aiohttp
import msgspec
import psutil
import pytest

from actors.gateway.gateway import Gateway
from tests.actors.gateway.conftest import Site

pytestmark = pytest.mark.servers


async def shut(site: Site) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    except OSError:
        return True
    writer.close()
    return False


async def draining_with_one_in_flight(site, upstream, eventually):
    """The upstream that has a request and does not answer it yet, the request, and the drain; the port is shut."""
    web = await upstream("web")
    await site.open(site.component("web", web))
    web.go_on.clear()
    asked = asyncio.create_task(site.ask("web.localhost"))
    await web.entered.wait()
    draining = asyncio.create_task(site.gateway.drain())
    await eventually(lambda: shut(site))
    return web, asked, draining


async def test_what_is_in_flight_is_answered_and_nothing_new_is_let_in(site, upstream, eventually) -> None:
    web, asked, draining = await draining_with_one_in_flight(site, upstream, eventually)
    assert not draining.done()

    web.go_on.set()
    assert (await asked).body == "web"
    await draining
    pid = site.gateway._envoy.pid
    await site.gateway.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_who_waits_for_a_gateway_that_drains_is_answered(site, upstream, eventually) -> None:
    web, asked, draining = await draining_with_one_in_flight(site, upstream, eventually)

    other = await upstream("other")
    await site.serve(site.component("web", web.endpoint("draining"), other), site.component("new", other))
    assert await site.gateway.active_requests({"web": ["web", "other"]}) == {"web": 1, "other": 0}
    web.go_on.set()
    assert (await asked).body == "web"
    await draining
    await site.serve(site.component("web", other), site.component("newer", other))


async def test_what_does_not_end_in_time_is_cut(site, upstream) -> None:
    site.gateway = Gateway(msgspec.structs.replace(site.settings, drain_seconds=1.0))
    web = await upstream("web")
    await site.open(site.component("web", web))
    web.go_on.clear()
    asked = asyncio.create_task(site.ask("web.localhost"))
    await web.entered.wait()

    await site.gateway.drain()
    await site.gateway.stop()
    with pytest.raises(aiohttp.ClientError):
        await asked


async def test_a_gateway_that_starts_anew_while_it_drains_cuts_nothing_and_drains_on(
    site, upstream, eventually
) -> None:
    web = await upstream("web")
    snapshot = site.component("web", web)
    await site.open(snapshot)
    web.go_on.clear()
    asked = asyncio.create_task(site.ask("web.localhost"))
    await web.entered.wait()
    draining = asyncio.create_task(site.gateway.drain())
    await eventually(lambda: shut(site))
    draining.cancel()
    await site.gateway.close()

    site.gateway = Gateway(site.settings)
    assert await site.gateway.start() is True
    draining = asyncio.create_task(site.gateway.drain())
    site.gateway.apply([snapshot])
    site.gateway.ready()
    assert await shut(site) and not draining.done()
    web.go_on.set()
    assert (await asked).body == "web"
    await draining


async def test_one_that_is_wanted_again_opens_its_port_with_the_envoy_that_drained(site, upstream, eventually) -> None:
    web = await upstream("web")
    snapshot = site.component("web", web)
    await site.open(snapshot)
    await site.gateway.drain()
    pid = site.gateway._envoy.pid
    await site.gateway.close()

    site.gateway = Gateway(site.settings)
    await site.open(snapshot)
    assert site.gateway._envoy.pid == pid
    assert (await site.ask("web.localhost")).body == "web"


async def test_an_envoy_that_has_died_has_nothing_in_flight(site, upstream, monkeypatch) -> None:
    await site.open(site.component("web", await upstream("web")))
    monkeypatch.setattr("actors.gateway.envoy._backoff", lambda failures: 60.0)
    psutil.Process(site.gateway._envoy.pid).kill()

    await site.gateway.drain()
