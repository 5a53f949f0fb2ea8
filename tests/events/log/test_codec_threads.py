"""Batches are decoded by several threads at once (partitions being folded, pages being read) and stay what they are."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks.histories import component_life
from events.log.codec import check_command, decode_batch, decode_facts, encode_batch
from events.log.records import EventRecord, Position


def test_threads_that_decode_at_once_do_not_mix_up_their_batches() -> None:
    stored: list[tuple[int, bytes, list[EventRecord]]] = []
    for seed in range(24):
        records, base = component_life(seed, events=400)[:400], seed * 400
        commands = [check_command(record.event_id, [record]) for record in records]
        _, value = encode_batch(partition=0, base=base, epoch=1, txn_id="t", previous=b"", commands=commands)
        stored.append((base, value, decode_batch(value, Position(0, base))[1]))

    def decode_all(_: int) -> bool:
        return all(
            decode_batch(value, Position(0, base))[1] == records
            and decode_facts(value, Position(0, base)).versions == [record.version for record in records]
            for _ in range(6)
            for base, value, records in stored
        )

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(decode_all, range(8)))
