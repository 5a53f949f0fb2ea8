"""The append benchmark measures what it says, in the shape that docs/benchmarks.md promises."""

import json

import pytest

from benchmarks import append
from benchmarks.append_load import Plan, workload
from benchmarks.peers import eventsourcing_library, nats_jetstream, one_put, redis_streams, server
from benchmarks.workload import encoded_bytes
from events.log.codec import check_command

pytestmark = pytest.mark.servers
TIMES = {"p50_ms", "p99_ms", "p999_ms", "max_ms"}


async def test_one_case_and_two_peers_in_one_json_line() -> None:
    plan = Plan(name=append.HEADLINE, entities=8, processes=2, partitions=2)
    peers = (one_put.run, eventsourcing_library.run_sqlite)
    line = json.loads(json.dumps(await append.compare((plan,), peers, 0.2)))
    assert (line["benchmark"], set(line)) == ("append", {"benchmark", "machine", "cases", "peers", "ratios"})
    (ours,) = line["cases"]
    for case in (ours, *line["peers"]):
        assert set(case) >= {"case", "unit", "count", "seconds", "per_second", "durability", *TIMES}
        assert case["per_second"] == pytest.approx(case["count"] / case["seconds"], rel=0.01)
    assert set(ours) >= {"stored_bytes_per_event", "encoded_bytes", "cpu_seconds", "rss_mb", "events_per_batch"}
    assert line["ratios"] == {peer["case"]: round(ours["per_second"] / peer["per_second"], 1) for peer in line["peers"]}


@pytest.mark.parametrize("peer", [redis_streams, nats_jetstream], ids=["redis", "nats"])
async def test_a_peer_that_is_not_installed_says_so(peer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str, *, wheel: str) -> None:
        return None

    monkeypatch.setattr(peer, "find_program", nowhere)
    found = await peer.run(0.1)  # type: ignore[attr-defined]
    assert set(found) == {"case", "absent"}


def test_a_program_is_found_nowhere_when_nobody_installed_it() -> None:
    assert server.find_program("no-such-server", wheel="no-such-wheel") is None


@pytest.mark.parametrize("options", [{}, {"zipf": 1.1}, {"event_bytes": 4096}], ids=str)
def test_events_are_as_large_as_promised_and_continue_their_streams(options: dict[str, float]) -> None:
    plan = Plan(name="", entities=100, **options)  # type: ignore[arg-type]
    events = workload(plan)
    records = [events.record(number % 100) for number in range(1_000)]
    assert encoded_bytes(records) >= max(250, plan.event_bytes)
    versions: dict[str, int] = {}
    for record in records:
        assert record.version == versions.get(record.stream, 0) + 1
        versions[record.stream] = record.version
        check_command(record.command_id, [record])
    assert len({record.command_id for record in records}) == len(records)
