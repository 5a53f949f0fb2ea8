"""The model answers as etcd does: random operations through the same client on both, and every answer is compared.

Revisions are compared by order, leases by name, so that a shared etcd with other tenants can be the yardstick.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from events.log.errors import Compacted, EtcdRefused, LogError
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_wire import (
    CreatedAfter,
    Delete,
    Get,
    KeyValue,
    ModRevisionIs,
    NotCreatedAt,
    Put,
    TxnResult,
    VersionIs,
)
from tests.simulation.etcd_model import EtcdModel
from tests.simulation.server import SimulatedServer, Weather
from tests.simulation.world import Process, World

pytestmark = pytest.mark.servers

ROUNDS = 8
MANY_ROUNDS = 300
OPERATIONS = 60
KEYS = [f"k{n}" for n in range(6)]

Answer = object
Step = Callable[[EtcdClient, "_Session"], Awaitable[Answer]]


class _Session:
    """One run of the operations: names revisions and leases by when they first appeared in an answer."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.leases: list[int] = [0]
        self.revisions: list[int] = []
        self.compacted = 0
        self.items: dict[str, KeyValue | None] = {}

    def seen(self, item: KeyValue | None, key: str) -> Answer:
        """A key's value without the numbers that another tenant of the same etcd changes."""
        self.items[key] = item
        if item is None:
            return None
        return (
            item.key.removeprefix(self.prefix),
            item.value,
            item.version,
            item.create_revision == item.mod_revision,
            self.leases.index(item.lease),
        )

    def mod_revision(self, key: str) -> int:
        item = self.items.get(key)
        return 0 if item is None else item.mod_revision


async def _get(client: EtcdClient, session: _Session, key: str) -> Answer:
    return session.seen(await client.get(session.prefix + key), key)


async def _list(client: EtcdClient, session: _Session, start: int, count: int, limit: int, keys_only: bool) -> Answer:
    first, last = session.prefix + KEYS[start], session.prefix + f"k{start + count}"
    listing = await client.range(first, last, limit=limit, keys_only=keys_only)
    return [(item.key.removeprefix(session.prefix), item.value, item.version) for item in listing]


async def _past(client: EtcdClient, session: _Session, back: int) -> Answer:
    """What was there at a revision seen a while ago."""
    if len(session.revisions) < back:
        return None
    revision = session.revisions[-back]
    listing = await client.range(session.prefix, session.prefix + "z", limit=100, revision=revision)
    return [(item.key.removeprefix(session.prefix), item.value, item.version) for item in listing]


async def _txn(client: EtcdClient, session: _Session, when: list[Any], then: list[Any], otherwise: list[Any]) -> Answer:
    def of(item: Any) -> Any:
        kind, key, *more = item
        name = session.prefix + key
        if kind == "mod":
            return ModRevisionIs(name, session.mod_revision(key) if more[0] else 0)
        if kind == "version":
            return VersionIs(name, more[0])
        if kind in ("after", "not-at"):
            end = session.prefix + ("z" if more[0] else key + "\0")
            made = session.mod_revision(more[1])
            return CreatedAfter(name, end, made) if kind == "after" else NotCreatedAt(name, end, made)
        if kind == "put":
            return Put(name, more[0], session.leases[more[1] % len(session.leases)])
        return Get(name) if kind == "get" else Delete(name)

    done: TxnResult = await client.txn(
        when=list(map(of, when)), then=list(map(of, then)), otherwise=list(map(of, otherwise))
    )
    session.revisions.append(done.revision)
    keys = [item[1] for item in (then if done.succeeded else otherwise) if item[0] == "get"]
    return done.succeeded, [session.seen(item, key) for item, key in zip(done.found, keys, strict=True)]


async def _grant(client: EtcdClient, session: _Session) -> Answer:
    session.leases.append(await client.grant_lease(60))
    return len(session.leases)


async def _revoke(client: EtcdClient, session: _Session, which: int) -> Answer:
    await client.revoke_lease(session.leases[which % len(session.leases)] or 0x7777)
    return None


async def _keep(client: EtcdClient, session: _Session, which: int) -> Answer:
    return await client.keep_lease_alive(session.leases[which % len(session.leases)] or 0x7777)


async def _compact(client: EtcdClient, session: _Session, back: int) -> Answer:
    if len(session.revisions) < back:
        return None
    await client.compact(session.revisions[-back])
    session.compacted = session.revisions[-back]
    return None


async def _watch(client: EtcdClient, session: _Session, back: int, puts_only: bool) -> Answer:
    """Everything from a revision seen a while ago, up to a mark written now."""
    # etcd before 3.4.36 keeps from a watch what was deleted at the very revision it compacted to.
    if len(session.revisions) < back or session.revisions[-back] == session.compacted:
        return None
    told: list[Answer] = []
    mark = session.prefix + "mark"
    await client.put(mark, b"")
    try:
        async for notice in client.watch_prefix(session.prefix, session.revisions[-back], puts_only=puts_only):
            for event in notice.events:
                told.append((event.item.key.removeprefix(session.prefix), event.deleted, event.item.value))
            if notice.events and notice.events[-1].item.key == mark:
                break
    finally:
        await client.delete(mark)
    return told


def draw(chance: random.Random) -> Step:
    key = lambda: chance.choice(KEYS)  # noqa: E731
    made = lambda: (chance.choice(("after", "not-at")), key(), chance.random() < 0.5, key())  # noqa: E731
    condition = lambda: chance.choice(  # noqa: E731
        [("mod", key(), chance.random() < 0.7), ("version", key(), chance.randint(0, 2)), made()]
    )
    put = lambda: ("put", key(), b"%d" % chance.randint(0, 99), chance.choice((0, 0, 0, 1, 2)))  # noqa: E731
    operation = lambda: chance.choice([put(), put(), ("get", key()), ("delete", key())])  # noqa: E731
    kind = chance.random()
    if kind < 0.5:
        when = [condition() for _ in range(chance.randint(0, 2))]
        then = [operation() for _ in range(chance.randint(1, 4))]
        otherwise = [operation() for _ in range(chance.randint(0, 3))]
        return lambda client, session: _txn(client, session, when, then, otherwise)
    number, flag = chance.randint(0, 5), chance.random() < 0.5
    count, limit, back = chance.randint(0, 6), chance.randint(1, 4), chance.randint(1, 12)
    name = KEYS[number]
    steps: list[Step] = [
        lambda client, session: _get(client, session, name),
        lambda client, session: _list(client, session, number, count, limit, flag),
        lambda client, session: _past(client, session, back),
        lambda client, session: _grant(client, session),
        lambda client, session: _revoke(client, session, number),
        lambda client, session: _keep(client, session, number),
        lambda client, session: _watch(client, session, back, flag),
    ]
    if chance.random() < 0.1:
        return lambda client, session: _compact(client, session, back)
    return chance.choice(steps)


async def run(client: EtcdClient, prefix: str, seed: int) -> list[Answer]:
    """Every answer of one round."""
    chance, session = random.Random(seed), _Session(prefix)
    answers: list[Answer] = []
    for _ in range(OPERATIONS):
        step = draw(chance)
        try:
            answers.append(await step(client, session))
        except (EtcdRefused, Compacted) as error:
            answers.append(_reason(error))
    return answers


def _reason(error: LogError) -> Answer:
    """The kind of refusal and etcd's own words, without endpoints and numbers."""
    words = str(error).rpartition("etcdserver: ")[2] if "etcdserver" in str(error) else ""
    return type(error).__name__, words


def model_answers(seed: int) -> list[Answer]:
    answers: list[list[Answer]] = []

    async def session(process: Process, server: SimulatedServer) -> None:
        answers.append(await run(server.client(process), "/f/", seed))

    with World(seed) as world:
        server = SimulatedServer(world, EtcdModel(), Weather())
        process = Process(world, "p")
        task = process.spawn(session(process, server), "session")
        world.run(task.done, 1000.0)
        assert world.errors == []
    return answers[0]


@pytest.mark.parametrize(
    "seeds", [range(ROUNDS), pytest.param(range(ROUNDS, MANY_ROUNDS), marks=pytest.mark.long)], ids=["few", "many"]
)
def test_the_model_answers_as_etcd_does(etcd_settings: EtcdSettings, seeds: range) -> None:
    # The model's worlds take over this process's clocks, so they are over before a real loop begins.
    modelled = {seed: model_answers(seed) for seed in seeds}

    async def compare() -> None:
        async with EtcdClient(etcd_settings) as client:
            for seed, model in modelled.items():
                real = await run(client, f"/{etcd_settings.namespace}/{seed}/", seed)
                for number, (told, expected) in enumerate(zip(real, model, strict=True)):
                    assert expected == told, f"seed {seed}, operation {number}: etcd says {told}, the model {expected}"

    asyncio.run(compare())
    kinds = {type(answer) for answers in modelled.values() for answer in answers}
    refusals = {answer for answers in modelled.values() for answer in answers if _is_refusal(answer)}
    assert list in kinds
    assert len(refusals) > 4, "the operations met too few of the ways in which etcd refuses"


def _is_refusal(answer: Answer) -> bool:
    return isinstance(answer, tuple) and answer[0] in ("EtcdRefused", "Compacted")
