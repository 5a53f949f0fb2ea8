"""How long a question to a component's stored log lines takes: a pattern, the newest lines, a word that occurs once.

Over the log server's own protocol, beside `zstdgrep` and `rg -z` on the same lines in one zstd file, in the same run.
Run: python -m benchmarks.log_query [--json] [--quick].
"""

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import psutil

from actors.logs.client import LogClient
from actors.logs.filter import MAX_LINES, LineFilter, Query
from actors.logs.line import Batch, LineRecord
from actors.logs.search import Seal, Searcher
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.logs.stream import StreamLog
from actors.logs.view import Extent, StoreLimits
from benchmarks.harness import Case, Result, case, main, result

BYTES = 1_000_000_000  # of text
QUICK_BYTES = 60_000_000
ROUNDS = 3
BATCH_LINES = 2_000
CHUNK_LINES = 200_000  # made once and repeated, with a number of its own in each line; far beyond zstd's window
STREAM = "c0ffee0000000001"
TOKEN = "a-token-of-the-benchmark"
NEEDLE = "needle7f3a9c"
PATTERN = r"ERROR .*payments/[0-9]+ status=50[03] ms=1[0-9][0-9][0-9] "
LOOSE = r"ms=19[0-9][0-9] trace=[0-9a-f]*dead[0-9a-f]* "
LAST = 1_000
SETTLE_SECONDS, QUICK_SETTLE_SECONDS = 1.0, 0.1


def texts(total: int) -> Iterator[list[str]]:
    """Lines of about 145 bytes until there are `total` bytes, some thousand at a time; the needle is in the middle."""
    draw = random.Random(7)
    words = ("connection", "pool", "cache", "refresh", "upstream", "accepted", "retry", "queue", "commit", "shard")
    paths = [f"/api/v1/{name}" for name in ("orders", "users", "carts", "items", "sessions", "payments")]
    levels = ["INFO"] * 90 + ["WARN"] * 7 + ["ERROR"] * 3
    bodies = [
        f"{draw.choice(levels)} [worker-{draw.randrange(16)}] {' '.join(draw.choices(words, k=3))}"
        f" path={draw.choice(paths)}/{draw.randrange(100_000)}"
        f" status={draw.choice((200, 200, 201, 204, 301, 404, 500, 503))}"
        f" ms={draw.randrange(2000)} trace={draw.getrandbits(64):016x} user={draw.randrange(10**6)}"
        for _ in range(CHUNK_LINES)
    ]
    made = number = 0
    needle = total // 2
    while made < total:
        start = number % CHUNK_LINES
        lines = [f"2026-11-27T23:{number + i} {body}" for i, body in enumerate(bodies[start : start + BATCH_LINES])]
        number += len(lines)
        size = sum(map(len, lines)) + len(lines)
        if made <= needle < made + size:
            lines[len(lines) // 2] += f" {NEEDLE}"
        made += size
        yield lines


async def fill(store: LogStore, plain: Path, total: int) -> int:
    """Store the lines and write them to `plain` as well; how many there are."""
    count = 0
    with plain.open("w") as file:
        for lines in texts(total):
            records = [
                LineRecord(at=(count + i) * 1_000, text=text, stream="o", instance="web-1", release=3)
                for i, text in enumerate(lines)
            ]
            batch = Batch.of("web-1", records, after=count, upto=count + len(lines))
            await store.append(STREAM, batch)
            file.write("\n".join(lines) + "\n")
            count += len(lines)
    return count


async def seal(store: LogStore) -> None:
    """What the keeper does at low priority, here with every core and at once."""
    searcher = Searcher()

    async def one(extent: Extent) -> None:
        def adopt(log: StreamLog) -> bool:
            return log.adopt(extent)

        await searcher.seal(Seal(path=extent.path, size=extent.size))
        await store.change(STREAM, adopt)

    waiting: list[Extent] = await store.change(STREAM, lambda log: log.unsealed())
    await asyncio.gather(*map(one, waiting))
    await searcher.aclose()


def cpu_seconds() -> float:
    """What this process, its children and those that have ended used so far."""
    times = [psutil.Process().cpu_times(), *(child.cpu_times() for child in psutil.Process().children())]
    return float(sum(each.user + each.system for each in times) + times[0].children_user + times[0].children_system)


async def timed(work: Callable[[], Awaitable[int]], settle: float) -> tuple[list[float], float, int]:
    """Seconds of each round after one that only warms caches, CPU seconds of the median one, and what was found."""
    found = await work()
    samples: list[float] = []
    used: list[float] = []
    for _ in range(ROUNDS):
        await asyncio.sleep(settle)
        before, began = cpu_seconds(), time.perf_counter()
        found = await work()
        samples.append(time.perf_counter() - began)
        used.append(cpu_seconds() - before)
    return samples, round(statistics.median(used), 3), found


async def ours(client: LogClient, name: str, query: Query, settle: float) -> Case:
    """One question over the wire."""

    async def ask() -> int:
        answer = await client.query(query)
        assert answer.complete, "expected a whole answer"
        return len(answer.lines)

    samples, cpu, found = await timed(ask, settle)
    return case(name, "query", samples, found=found, cpu_seconds=cpu)


async def peer(name: str, program: str, command: Sequence[str], expected: Case, settle: float) -> Case:
    """A program that prints how many lines it found, or the lines themselves, which are counted."""
    if shutil.which(program) is None:
        return {"case": f"{program}: {name}", "absent": f"{program} is not installed"}

    async def run() -> int:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        out, _ = await process.communicate()
        return int(out) if out.strip().isdigit() else out.count(b"\n")

    samples, cpu, found = await timed(run, settle)
    assert found == expected["found"], f"{program} found {found} lines, we found {expected['found']}"
    return case(f"{program}: {name}", "query", samples, found=found, cpu_seconds=cpu)


async def measure(root: Path, total: int, settle: float) -> tuple[list[Case], list[Case]]:
    """Fill, seal, ask, and have the peers look through the same lines."""
    store = LogStore(root / "logs", StoreLimits(stream_bytes=1 << 40))
    await store.start()
    lines = await fill(store, root / "lines", total)
    await seal(store)
    packed = root / "lines.zst"
    pack = await asyncio.create_subprocess_exec("zstd", "-q", "-3", "-T0", str(root / "lines"), "-o", str(packed))
    await pack.wait()
    server = EventlogServer(store, TOKEN, port_file=root / "port")
    await server.start()
    await server.searcher.warm()
    client = LogClient(root / "port", TOKEN)
    questions = {
        "pattern": Query(stream=STREAM, limit=MAX_LINES, filter=LineFilter(grep=PATTERN)),
        "pattern without a word in it": Query(stream=STREAM, limit=MAX_LINES, filter=LineFilter(grep=LOOSE)),
        "word that occurs once": Query(stream=STREAM, limit=MAX_LINES, filter=LineFilter(words=(NEEDLE,))),
        "newest lines": Query(stream=STREAM, last=LAST),
    }
    stored = sum(path.stat().st_size for path in (root / "logs").rglob("*") if path.is_file())
    about = {"lines": lines, "text_bytes": total, "stored_bytes": stored, "peer_bytes": packed.stat().st_size}
    cases = [{**await ours(client, name, query, settle), **about} for name, query in questions.items()]
    asked = dict(zip(questions, cases, strict=True))
    peers: list[Case] = []
    for name, arguments in {
        "pattern": ["-E", PATTERN],
        "pattern without a word in it": ["-E", LOOSE],
        "word that occurs once": ["-w", NEEDLE],
    }.items():
        peers.append(await peer(name, "zstdgrep", ["zstdgrep", "-c", *arguments, str(packed)], asked[name], settle))
        flags = ["-w", NEEDLE] if "-w" in arguments else [arguments[-1]]
        peers.append(await peer(name, "rg", ["rg", "-z", "-c", *flags, str(packed)], asked[name], settle))
    tail = ["sh", "-c", f"zstd -dcq '{packed}' | tail -n {LAST}"]
    peers.append(await peer("newest lines", "zstd", tail, asked["newest lines"], settle))
    await client.aclose()
    await server.aclose()
    await store.aclose()
    return cases, peers


async def run(quick: bool) -> Result:
    """All questions, then the peers."""
    with tempfile.TemporaryDirectory(prefix="rayfold-log-query-") as root:
        how = (QUICK_BYTES, QUICK_SETTLE_SECONDS) if quick else (BYTES, SETTLE_SECONDS)
        cases, peers = await measure(Path(root), *how)
    ratios = {
        f"{str(each['case']).partition(': ')[2]} over {str(each['case']).partition(': ')[0]}{what}": round(
            float(each[by]) / max(float(ours[by]), 0.001), 1
        )
        for what, by in (("", "p50_ms"), (", in CPU", "cpu_seconds"))
        for each in peers
        if "absent" not in each
        for ours in cases
        if str(each["case"]).partition(": ")[2] == ours["case"]
    }
    return result("log_query", ("msgspec", "zstandard", "google-re2"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
