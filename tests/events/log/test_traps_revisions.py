"""Traps 1 to 5 of docs/correctness.md: what etcd's revisions, watches and compaction would lead a reader into."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

import pytest
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.failpoints import arm, disarm
from events.log.codec import batch_hash, check_command, encode_batch
from events.log.etcd_client import PREFIX_PAGE, EtcdClient
from events.log.etcd_connection import EtcdConnection, EtcdSettings, Purpose
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_watch import watch_range
from events.log.etcd_wire import Put, prefix_end
from events.log.keys import Keys
from tests.events.log.contract import event, offsets, read_all, take

pytestmark = pytest.mark.servers
IN_ONE_REVISION = (2, 1, 3)
"""Events of each of the batches that one transaction puts."""


@pytest.fixture
async def log(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(etcd_settings, recheck_s=60.0)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def armed() -> Iterator[list[str]]:
    """Names of failpoints that are disarmed at the end."""
    names: list[str] = []
    yield names
    for name in names:
        disarm(name)


def batches(sizes: Sequence[int]) -> list[tuple[int, bytes]]:
    """(base, value) of a chain of batches of so many events of one stream."""
    made: list[tuple[int, bytes]] = []
    base, previous = 0, b""
    for number, size in enumerate(sizes):
        events = [event("s/1", base + n + 1, command=f"c{number}") for n in range(size)]
        _, value = encode_batch(
            partition=0, base=base, epoch=1, txn_id=f"t{number}", previous=previous,
            commands=[check_command(f"c{number}", events)],
        )  # fmt: skip
        made.append((base, value))
        base, previous = base + size, batch_hash(value)
    return made


async def put_in_one_revision(log: EtcdEventLog, settings: EtcdSettings, sizes: Sequence[int]) -> int:
    keys = Keys(settings.namespace)
    done = await log.client.txn(then=[Put(keys.batch(0, base), value) for base, value in batches(sizes)])
    return done.revision


async def test_keys_of_one_revision_have_positions_of_their_own(log: EtcdEventLog, etcd_settings: EtcdSettings) -> None:
    """Trap 1."""
    following = asyncio.create_task(take(log.follow(0, 0), sum(IN_ONE_REVISION)))
    revision = await put_in_one_revision(log, etcd_settings, IN_ONE_REVISION)

    stored = await following

    assert {each.revision for each in stored} == {revision}
    assert offsets(stored) == list(range(sum(IN_ONE_REVISION)))
    assert len({each.position for each in stored}) == sum(IN_ONE_REVISION)


@pytest.mark.parametrize("handled", range(sum(IN_ONE_REVISION)))
async def test_a_consumer_that_dies_within_a_revision_resumes_within_it(
    log: EtcdEventLog, etcd_settings: EtcdSettings, handled: int
) -> None:
    """Trap 2. It had handled so many events of the revision when it died; a checkpoint is an offset."""
    total = sum(IN_ONE_REVISION)
    await put_in_one_revision(log, etcd_settings, IN_ONE_REVISION)
    before: list[int] = []
    async for part in log.follow(0, 0):
        before += offsets(part)[: handled - len(before)]
        if len(before) == handled:
            break

    after = await take(log.follow(0, handled), total - handled)

    assert before + offsets(after) == list(range(total))


async def _fragments(connection: EtcdConnection, prefix: str, revision: int, *, wanted: bool, bytes_: int) -> list[int]:
    """Sizes of the answers that a bare watch gets until it has `bytes_`; negative where etcd says more follows."""
    create = rpc_pb2.WatchCreateRequest(
        key=prefix.encode(), range_end=prefix_end(prefix), start_revision=revision, fragment=wanted
    )
    stream = rpc_pb2_grpc.WatchStub(connection.channel(Purpose.WATCH)).Watch(metadata=connection.metadata())
    await stream.write(rpc_pb2.WatchRequest(create_request=create))
    sizes: list[int] = []
    while sum(map(abs, sizes)) < bytes_:
        answer = await stream.read()
        size = sum(len(each.kv.value) for each in answer.events)
        sizes.append(-size if answer.fragment else size)
    stream.cancel()
    return sizes


async def test_a_catch_up_larger_than_a_message_comes_whole(etcd_settings: EtcdSettings) -> None:
    """Trap 3. Twelve megabytes from an old revision: in fragments, each notice joined; and in one message as well."""
    prefix, count, size = f"/{etcd_settings.namespace}/w/", 48, 256 << 10
    connection = EtcdConnection(etcd_settings)
    await connection.open()
    async with EtcdClient(etcd_settings) as client:
        first = await client.put(f"{prefix}{0:03d}", bytes(size))
        for n in range(1, count):
            await client.put(f"{prefix}{n:03d}", bytes(size))
    try:
        split = await _fragments(connection, prefix, first, wanted=True, bytes_=count * size)
        whole = await _fragments(connection, prefix, first, wanted=False, bytes_=count * size)
        assert min(split) < 0, "etcd did split its answer"
        assert max(whole) == count * size > 4 << 20, "more than gRPC takes by default"

        keys: list[str] = []
        revision = first - 1
        async with asyncio.timeout(30):
            async for notice in watch_range(connection, prefix.encode(), prefix_end(prefix), start_revision=first):
                if notice.events:
                    # The resume point moves only past revisions whose events are all here.
                    assert notice.events[0].item.mod_revision > revision
                    revision = notice.revision
                keys += [each.item.key for each in notice.events]
                if len(keys) == count:
                    break
    finally:
        await connection.close()
    assert keys == [f"{prefix}{n:03d}" for n in range(count)]


async def test_a_listing_whose_revision_is_compacted_between_two_pages_begins_anew(
    etcd_settings: EtcdSettings, armed: list[str]
) -> None:
    """Trap 4, for pages; followers: test_compaction_costs_a_follower_no_event."""
    prefix, count = f"/{etcd_settings.namespace}/k/", PREFIX_PAGE + 10
    compactions = 0

    def compact_once() -> None:
        nonlocal compactions
        if not compactions:
            compactions += 1
            in_a_thread(write_and_compact)

    async def write_and_compact() -> None:
        async with EtcdClient(etcd_settings) as other:
            await other.compact(await other.put(f"{prefix}{count:04d}", b"late"))

    async with EtcdClient(etcd_settings) as client:
        for n in range(0, count, 100):
            await client.txn(then=[Put(f"{prefix}{m:04d}", b"") for m in range(n, min(n + 100, count))])
        arm("log.client.between-pages", compact_once)
        armed.append("log.client.between-pages")
        listing = await client.get_prefix(prefix)

    assert compactions == 1
    assert [item.key for item in listing] == [f"{prefix}{n:04d}" for n in range(count + 1)]


def in_a_thread(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a coroutine function to its end while this thread's loop stands still, as another process would."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("line", ["log.hub.before-watch", "log.follow.caught-up"])
async def test_what_is_appended_between_the_list_and_the_watch_arrives(
    log: EtcdEventLog, etcd_settings: EtcdSettings, armed: list[str], line: str
) -> None:
    """Trap 5. Nothing but the watch or a page that is told to look can bring it: rechecks are a minute apart."""
    fired = 0

    async def append_elsewhere() -> None:
        other = EtcdEventLog(etcd_settings)
        await other.open()
        writer = await other.claim(0, "other")
        await writer.append(f"late{fired}", [event("s/late", fired)])
        await writer.release()
        await other.close()

    def append_there() -> None:
        nonlocal fired
        if fired < 3:
            fired += 1
            in_a_thread(append_elsewhere)

    writer = await log.claim(0, "other")
    await writer.append("early", [event("s/early", 1)])
    await writer.release()
    arm(line, append_there)
    armed.append(line)
    seen: list[int] = []
    async with asyncio.timeout(30):
        async for part in log.follow(0, 0):
            seen += offsets(part)
            if fired and len(seen) == fired + 1 and (fired == 3 or line == "log.hub.before-watch"):
                break

    assert seen == list(range(len(seen))) == offsets(await read_all(log, 0))
