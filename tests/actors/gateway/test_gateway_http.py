"""What a client of the gateway sees: routing by host and path, headers, and the gateway's own pages. Real Envoy."""

import asyncio
import json
import re

import pytest

from actors.gateway.table import EndpointSpec, RouteSpec

pytestmark = pytest.mark.servers


async def test_host_and_longest_path_choose_the_component(site, upstream) -> None:
    web, api = await upstream("web"), await upstream("api")
    await site.open(
        site.component("web", web, routes=(RouteSpec(host="shop.localhost"),)),
        site.component("api", api, routes=(RouteSpec(host="shop.localhost", path_prefix="/api"),)),
    )

    asked = {
        path: (await site.ask("shop.localhost", path)).body for path in ("/", "/api", "/api/v1?q=1", "/apix", "/a")
    }

    assert asked == {"/": "web", "/api": "api", "/api/v1?q=1": "api", "/apix": "web", "/a": "web"}


@pytest.mark.parametrize("host", ["web.localhost:8080", "WEB.localhost", "Web.Localhost:1", "web.localhost."])
async def test_a_host_is_found_with_port_capitals_or_final_dot(site, upstream, host) -> None:
    await site.open(site.component("web", await upstream("web")))

    assert (await site.ask(host)).body == "web"


async def test_forwarding_headers_say_who_asked_and_trust_no_client(site, upstream) -> None:
    web = await upstream("web")
    await site.open(site.component("web", web))

    answer = await site.ask("web.localhost:81", headers={"x-request-id": "<b>", "x-envoy-retry-on": "5xx"})

    (head,) = web.heads
    assert "x-forwarded-for: 127.0.0.1\r\n" in head
    assert "x-forwarded-proto: http\r\n" in head
    assert "x-forwarded-host: web.localhost:81\r\n" in head
    assert "x-envoy" not in head
    (request_id,) = re.findall("x-request-id: (.+)\r\n", head)
    assert request_id == answer.headers["x-request-id"] != "<b>"
    assert answer.headers["server"] == "app"
    assert not [name for name in answer.headers if name.startswith("x-envoy")]


async def test_no_ready_instance_is_a_503_page_that_names_the_component(site) -> None:
    await site.open(site.component("idle"))

    page = await site.ask("idle.localhost", headers={"accept": "text/html,application/json;q=0.5"})
    problem = await site.ask("idle.localhost", headers={"accept": "application/json"})

    assert page.status == problem.status == 503
    assert page.headers["x-rayfold-error"] == "no-ready-instance"
    assert page.headers["cache-control"] == "no-store"
    assert "server" not in page.headers
    assert "Component web of app idle has no instance" in page.body and page.headers["x-request-id"] in page.body
    assert problem.headers["content-type"] == "application/problem+json"
    body = json.loads(problem.body)
    assert (body["status"], body["code"]) == (503, "no-ready-instance")
    assert body["request_id"] == problem.headers["x-request-id"]


async def test_an_unavailable_component_answers_503_whatever_its_endpoints_are(site, upstream) -> None:
    await site.open(site.component("web", await upstream("web"), available=False))

    assert (await site.ask("web.localhost")).headers["x-rayfold-error"] == "no-ready-instance"


async def test_unknown_host_and_unknown_path_are_404_pages(site, upstream) -> None:
    await site.open(
        site.component("api", await upstream("api"), routes=(RouteSpec(host="a.localhost", path_prefix="/v1"),))
    )

    for host, path in (("nobody.localhost", "/"), ("a.localhost", "/v2")):
        answer = await site.ask(host, path)
        assert (answer.status, answer.headers["x-rayfold-error"]) == (404, "unknown-host")
        assert "Nothing is here" in answer.body


async def test_an_instance_that_nobody_listens_for_is_unreachable(site) -> None:
    await site.open(site.component("web", EndpointSpec(instance_id="i", host="127.0.0.1", port=1)))

    answer = await site.ask("web.localhost")
    assert (answer.status, answer.headers["x-rayfold-error"]) == (503, "upstream-unreachable")


async def test_routes_come_move_and_go(site, upstream) -> None:
    one, two = await upstream("one"), await upstream("two")
    await site.open(site.component("one", one, routes=(RouteSpec(host="x.localhost"),)))
    assert (await site.ask("x.localhost")).body == "one"

    await site.serve(
        site.component("one", one, routes=()), site.component("two", two, routes=(RouteSpec(host="x.localhost"),))
    )
    assert (await site.ask("x.localhost")).body == "two"

    gone = site.component("two").position
    site.gateway.remove("two", gone)
    await site.gateway.wait_applied(gone, 10)
    assert (await site.ask("x.localhost")).status == 404


async def test_websockets_pass(site, upstream) -> None:
    await site.open(site.component("web", await upstream("web")))

    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: web.localhost\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"ping")
        echoed = await reader.readexactly(4)
        writer.close()

    assert head.startswith(b"HTTP/1.1 101")
    assert echoed == b"ping"


async def test_an_app_that_closes_connections_every_few_requests_fails_none(site, upstream) -> None:
    await site.open(site.component("web", await upstream("web", requests_per_connection=3)))

    answers = await asyncio.gather(*(site.ask("web.localhost") for _ in range(150)))

    assert {answer.status for answer in answers} == {200}


async def test_the_access_log_names_the_component_and_the_instance(site, upstream, eventually) -> None:
    await site.open(site.component("web", await upstream("web")))
    answer = await site.ask("web.localhost", "/p?q=1")
    log = site.settings.access_log

    async def written() -> bool:
        return log.exists() and log.read_bytes().endswith(b"\n")

    await eventually(written)
    line = json.loads(log.read_text())
    wanted = {"method": "GET", "path": "/p?q=1", "host": "web.localhost", "status": 200, "bytes_out": 3}
    wanted |= {"service_id": "web", "instance_id": "web", "app": "web", "team": "acme"}
    wanted |= {"request_id": answer.headers["x-request-id"]}
    assert {key: line[key] for key in wanted} == wanted
    assert isinstance(line["duration_ms"], int)
