"""A partition that is damaged: it is named, what is asked of it is answered, the others are served."""

import time

import pytest

from actors.supervisor import supervisor as supervisors
from actors.supervisor.supervisor import Supervisor
from events.log.memory import MemoryEventLog, MemoryStore
from tests.actors.supervisor.test_newer_events import NEW, OLD, PARTITIONS, NoNodes, created, partition, told_to
from tests.events.log.flipped import flip


@pytest.fixture
async def store() -> MemoryStore:
    """A log whose partition of OLD has one event, in a batch with a flipped bit."""
    store = MemoryStore(PARTITIONS)
    log = MemoryEventLog(partitions=PARTITIONS, store=store)
    await log.open()
    writer = await log.claim(partition(OLD), "before")
    await writer.append("c1", [created(OLD)])
    await writer.release()
    flip(store, partition(OLD), 0)
    return store


async def test_it_is_named_and_the_others_are_served(store: MemoryStore) -> None:
    log, hands = MemoryEventLog(partitions=PARTITIONS, store=store), NoNodes()
    supervisor = Supervisor(name="s1", event_log=log, nodes=hands)  # type: ignore[arg-type]
    supervisor.use(hands)

    assert await supervisor.assign(range(PARTITIONS)) == [partition(NEW)]

    place = f"batch at {partition(OLD)}:0 is corrupt"
    assert place in supervisor.unserved()[partition(OLD)]
    reply = await told_to(supervisor, OLD)
    assert reply.error == "unreadable" and place in reply.error_message
    assert not (await told_to(supervisor, NEW)).error
    assert await log.owner_of(partition(OLD)) is None
    assert await supervisor.assign([partition(NEW)]) and not supervisor.unserved(), "it is not this one's any more"
    await supervisor.close()
    await log.close()


async def test_it_is_tried_again_seldom_and_served_once_it_is_mended(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, hands = MemoryEventLog(partitions=PARTITIONS, store=store), NoNodes()
    supervisor = Supervisor(name="s1", event_log=log, nodes=hands)  # type: ignore[arg-type]
    supervisor.use(hands)
    await supervisor.assign(range(PARTITIONS))
    epoch = store.partitions[partition(OLD)].epoch
    await supervisor.assign(range(PARTITIONS))
    assert store.partitions[partition(OLD)].epoch == epoch, "each try raises it"

    flip(store, partition(OLD), 0)
    later = time.monotonic() + supervisors.DAMAGED_SECONDS + 1
    monkeypatch.setattr(supervisors.time, "monotonic", lambda: later)

    assert await supervisor.assign(range(PARTITIONS)) == list(range(PARTITIONS))
    assert not supervisor.unserved()
    await supervisor.close()
    await log.close()
