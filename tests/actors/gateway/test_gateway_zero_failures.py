"""No request fails while instances come, go, drain and crash under a steady load. Real Envoy."""

import asyncio

import pytest

pytestmark = pytest.mark.servers


async def test_swapping_instances_under_load_fails_no_request(site, upstream) -> None:
    """The whole hand-over, ten times: add the new, wait until applied, drain the old, wait until quiet, stop it."""
    old = await upstream("v0")
    await site.open(site.component("web", old))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        load = group.create_task(site.load("web.localhost", stop, method="POST"))
        await old.entered.wait()
        for number in range(1, 11):
            new = await upstream(f"v{number}")
            await site.serve(site.component("web", old, new))
            await site.serve(site.component("web", old.endpoint("draining"), new))
            await site.drained("web", f"v{number - 1}")
            await site.serve(site.component("web", new))
            old.crash()
            seen = new.requests

            async def served(new=new, seen=seen) -> None:
                while new.requests < seen + 40:
                    await asyncio.sleep(0.01)

            async with asyncio.timeout(10):
                await served()
            old = new
        stop.set()

    result = load.result()
    assert set(result.statuses) == {200}, result
    assert result.statuses[200] > 400
    assert set(result.names) == {f"v{number}" for number in range(11)}


async def test_a_crash_of_one_of_three_instances_fails_no_get(site, upstream) -> None:
    instances = [await upstream(f"i{number}") for number in range(3)]
    await site.open(site.component("web", *instances))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        load = group.create_task(site.load("web.localhost", stop))
        await instances[1].entered.wait()
        instances[1].go_on.clear()  # so that the crash meets requests in flight
        instances[1].entered.clear()
        async with asyncio.timeout(10):
            await instances[1].entered.wait()
        instances[1].crash()
        seen = instances[0].requests
        async with asyncio.timeout(20):
            while instances[0].requests < seen + 300:
                await asyncio.sleep(0.02)
        stop.set()

    result = load.result()
    assert set(result.statuses) == {200}, result


async def test_a_draining_instance_finishes_what_it_has_and_gets_nothing_new(site, upstream) -> None:
    old, new = await upstream("old"), await upstream("new")
    await site.open(site.component("web", old))
    old.go_on.clear()
    async with asyncio.TaskGroup() as group:
        in_flight = group.create_task(site.ask("web.localhost", method="POST", data=b"slow"))
        await old.entered.wait()
        await site.serve(site.component("web", old.endpoint("draining"), new))
        answers = [await site.ask("web.localhost") for _ in range(50)]
        active = await site.gateway.active_requests({"web": ["old", "new", "unknown"]})
        old.go_on.set()

    await site.drained("web", "old")
    assert active == {"old": 1, "new": 0, "unknown": 0}
    assert {answer.body for answer in answers} == {"new"}
    assert (in_flight.result().status, in_flight.result().body) == (200, "old")
    assert old.requests == 1


async def test_an_instance_taken_out_still_finishes_what_it_has(site, upstream) -> None:
    old, new = await upstream("old"), await upstream("new")
    await site.open(site.component("web", old))
    old.go_on.clear()
    async with asyncio.TaskGroup() as group:
        in_flight = group.create_task(site.ask("web.localhost", method="POST", data=b"slow"))
        await old.entered.wait()
        await site.serve(site.component("web", new))
        old.go_on.set()

    assert in_flight.result().body == "old"


async def test_the_last_instance_draining_leaves_503_and_not_the_instance(site, upstream) -> None:
    only = await upstream("only")
    await site.open(site.component("web", only.endpoint("draining")))

    assert (await site.ask("web.localhost")).headers["x-rayfold-error"] == "no-ready-instance"
    assert only.requests == 0


async def test_a_post_is_repeated_only_when_the_app_has_not_seen_it(site, upstream) -> None:
    broken = await upstream("broken")
    await site.open(site.component("web", broken))
    broken.go_on.clear()
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(site.ask("web.localhost", method="POST", data=b"once"))
        await broken.entered.wait()
        broken.crash()

    assert (asked.result().status, asked.result().headers["x-rayfold-error"]) == (503, "upstream-closed")
    assert broken.bodies == [b"once"]
