"""The whole platform at a time, and an app between two."""

from collections.abc import AsyncIterator

import pytest

from events.log.memory import MemoryEventLog
from events.log.records import Position, StoredEvent
from events.model.team import TeamTokenIssued
from events.replay.appdiff import app_diff, app_streams
from events.replay.errors import NoSuchStream
from events.replay.history import history, state_of
from events.replay.past import in_total_order
from events.replay.whole import of_team, summary, whole
from tests.projections.recorder import START, WEB, Recorder, log_of, tell_everything

STREAM = f"component/{WEB}"


async def everything() -> MemoryEventLog:
    return await log_of(tell_everything())


async def test_every_stream_is_as_it_is_by_itself() -> None:
    log = await everything()
    times = sorted({record.at for record in tell_everything()})

    for at in (None, times[0], times[len(times) // 2], times[-1], times[0] - 1):
        then = await whole(log, at=at)
        names = {record.stream for record in tell_everything()}
        for stream in names:
            alone = state_of(stream, await history(log, stream), **({} if at is None else {"at": at}))
            assert (stream in then) == (alone.version > 0)
            if stream in then:
                assert (then[stream].state, then[stream].version) == (alone.state, alone.version)
    assert await whole(log, at=0) == {}


async def test_a_clock_that_went_back_hides_nothing() -> None:
    recorder = Recorder()
    for number, at in enumerate((10, 30, 20, 40)):
        recorder.add("team/x", TeamTokenIssued(name=f"t{number}", sha256="a" * 64), at=at)
    log = await log_of(recorder.records)
    events = await history(log, "team/x")

    for at, version in ((9, 0), (10, 1), (20, 3), (35, 3), (40, 4)):
        then = await whole(log, at=at)
        assert state_of("team/x", events, at=at).version == version
        assert (then["team/x"].version if then else 0) == version


async def test_the_summary_names_what_there_was() -> None:
    told = summary((await whole(await everything())).values())

    assert [t.name for t in told.teams] == ["default", "other"]
    assert {(a.team, a.name) for a in told.apps} >= {("default", "shop")}
    web = next(c for c in told.components if (c.team, c.app) == ("default", "shop"))
    assert (web.component, web.status) == ("web", "active")
    assert web.release > 0
    assert {(n.name, n.status) for n in told.nodes} == {("node1", "ready"), ("node2", "lost")}
    assert [r.name for r in told.routes] == ["shop.example.com/api"]
    assert told.events == len(tell_everything())
    running = summary((await whole(await everything(), at=START + 2)).values())
    assert {b.status for b in running.builds} <= {"queued", "running"}
    assert running.builds


async def test_a_team_sees_its_own_and_nothing_else() -> None:
    then = (await whole(await everything())).values()

    mine, theirs = of_team(then, "default"), of_team(then, "other")

    assert not {t.stream for t in mine} & {t.stream for t in theirs}
    assert {"team/default", STREAM, "route/shop.example.com/api"} <= {t.stream for t in mine}
    assert "team/other" in {t.stream for t in theirs}
    assert not any(t.stream.startswith("node/") for t in mine)


async def test_the_total_order_is_by_revision_and_keeps_each_partitions_own() -> None:
    log = await everything()

    ordered = [stored async for stored in in_total_order(log)]

    assert len(ordered) == len(tell_everything())
    keys = [(stored.revision, *stored.position) for stored in ordered]
    assert keys == sorted(keys)
    for partition in range(log.partitions):
        offsets = [s.position.offset for s in ordered if s.position.partition == partition]
        assert offsets == list(range(len(offsets)))


class Listed:
    """A past of two partitions, the older half of one of which has lost its revisions to an archive."""

    partitions = 2

    def __init__(self, events: list[StoredEvent]) -> None:
        self._events = events

    async def read(
        self, partition: int, from_offset: int, *, stream: str | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        for stored in self._events:
            if stored.position.partition == partition:
                yield [stored]


async def test_archived_events_come_first_and_stay_in_their_partitions_order() -> None:
    record = tell_everything()[0]
    places = [((0, 0), 0), ((0, 1), 0), ((0, 2), 7), ((0, 3), 9), ((1, 0), 4), ((1, 1), 8), ((1, 2), 9)]
    past = Listed([StoredEvent(Position(*position), revision, record) for position, revision in places])

    ordered = [(tuple(stored.position), stored.revision) async for stored in in_total_order(past)]

    assert ordered == [((0, 0), 0), ((0, 1), 0), ((1, 0), 4), ((0, 2), 7), ((1, 1), 8), ((0, 3), 9), ((1, 2), 9)]
    only = [stored.position.partition async for stored in in_total_order(past, {1})]
    assert only == [1, 1, 1]


async def _anything(stream: str) -> bool:
    return True


async def test_an_app_is_compared_across_everything_it_is_made_of() -> None:
    log = await everything()
    streams = await app_streams(log, "default", "shop")
    assert {"app/default.shop", STREAM, f"build/{WEB}-op1", "node/node1", "route/shop.example.com/api"} <= set(streams)
    events = await history(log, STREAM)
    end = max(e.record.at for e in events)

    found = await app_diff(log, "default", "shop", begin=START - 1, end=end, allowed=_anything)

    areas = [c.area for c in found.changes]
    assert {"app", "component", "config", "routes", "releases", "instances", "builds", "nodes"} >= set(areas)
    assert {"app", "component", "releases", "builds", "nodes"} <= set(areas)
    order = ["app", "component", "config", "routes", "releases", "instances", "builds", "nodes"]
    assert areas == sorted(areas, key=order.index), "grouped"
    assert all(c.change.event is not None and c.change.event.record.stream == c.stream for c in found.changes)
    assert (await app_diff(log, "default", "shop", begin=end, end=end, allowed=_anything)).changes == []


async def test_config_and_routes_of_a_change_are_told_with_who_did_it() -> None:
    log = await everything()
    events = await history(log, STREAM)

    def when(type_: str, number: int) -> int:
        return [e.record.at for e in events if e.record.type == type_][number]

    found = await app_diff(
        log, "default", "shop", begin=when("RolloutSucceeded", 1), end=when("RolloutSucceeded", 2), allowed=_anything
    )

    by_path = {c.change.change.path: c for c in found.changes}
    key = by_path["spec.config.KEY"]
    assert (key.area, key.name, key.change.change.after) == ("config", "web", "value")
    assert key.change.event is not None
    assert _changes_key(events, key.change.event)
    assert any(c.area == "routes" for c in found.changes)


def _changes_key(events: list[StoredEvent], event: StoredEvent) -> bool:
    before = state_of(STREAM, events, version=event.record.version - 1).state
    after = state_of(STREAM, events, version=event.record.version).state
    return "KEY" not in before.spec.config and "KEY" in after.spec.config  # type: ignore[attr-defined]


async def test_streams_that_may_not_be_looked_into_are_left_out() -> None:
    async def own(stream: str) -> bool:
        return not stream.startswith("node/")

    found = await app_diff(await everything(), "default", "shop", begin=0, end=START * 100, allowed=own)

    assert not any(c.area == "nodes" for c in found.changes)
    with pytest.raises(NoSuchStream, match="expected an app nothing"):
        await app_diff(await everything(), "default", "nothing", begin=0, end=1, allowed=own)
