"""`rayfold log verify`: every hash, checksum, count and offset of the log, walked; the first break named.

Walks the log itself, whether the platform runs or not; with RAYFOLD_URL it asks that platform to.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.backup import SinceHead, noted_heads, run_counting
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.feed import IDLE_SECONDS
from api.cli.output import size
from api.cli.place import ENV_URL
from api.cli.progress import Progress
from api.cli.session import Session, takes_session

if TYPE_CHECKING:
    from events.log.chain import NotedHead
    from events.log.verify import PartitionReport

Partition = Annotated[
    list[int] | None, typer.Option("--partition", min=0, metavar="N", help="Only this one; may be repeated.")
]
Deep = Annotated[bool, typer.Option("--deep", help="Fold from the first event, and compare each snapshot with it.")]


@takes_session
def verify(session: Session, partition: Partition = None, deep: Deep = False, since_head: SinceHead = "") -> None:
    """Walk the whole log and name the first break; exits 1 when there is one, or when a snapshot is damaged.

    Prints heads to note elsewhere.
    """
    if os.environ.get(ENV_URL):
        found = _asked(session, partition or [], deep, noted_heads(since_head))
    else:
        found = _walked(session, partition, deep, noted_heads(since_head))
    _show(session, found)
    if broken := [text for report in found.items("partitions") if (text := report.text("broken"))]:
        raise CliError(
            f"the log is broken at {broken[0]}",
            lines=tuple(broken[1:]),
            hint="stop writing to it: rayfold down --keep-apps; then restore a backup (docs/operations.md)",
            code="log_broken",
        )
    if unknown := found.words("unrecognised"):
        raise CliError(f"expected the noted hash {unknown[0]} in this history, found it nowhere", code="log_rewritten")
    if damaged := [text for report in found.items("partitions") if (text := report.text("snapshot_damaged"))]:
        raise CliError(
            f"the log is whole, a snapshot is damaged: {damaged[0]}",
            lines=tuple(damaged[1:]),
            hint="delete it from the archive: the log is folded instead, and the next one is taken by itself "
            "(docs/operations.md, When an owner dies)",
            code="snapshot_damaged",
        )


def _walked(session: Session, partitions: list[int] | None, deep: bool, noted: "list[NotedHead]") -> Document:
    from api.log_access import open_log
    from events.log.backup.source import EtcdLogSource
    from events.log.verify import as_document, verify_log
    from events.replay.snapshots import deep_check

    async def work(progress: Callable[[int, int], None]) -> "list[PartitionReport]":
        async with open_log(session.data_dir) as log:
            source = await EtcdLogSource.open(log.client, log.blobs)
            if absent := [number for number in partitions or () if number >= source.partitions]:
                raise CliError(
                    f"there is no partition {absent[0]}; they go from 0 to {source.partitions - 1}",
                    exit_code=ExitCode.NOT_FOUND,
                    hint="rayfold log stats",
                    code="not_found",
                )
            check = deep_check(source) if deep else None
            walking = verify_log(source, partitions=partitions, noted=noted, deep=check, progress=progress)
            return [report async for report in walking]

    reports = run_counting(session, "verifying", work)
    return Document(as_document(reports, noted))


def _asked(session: Session, partitions: list[int], deep: bool, noted: "list[NotedHead]") -> Document:
    """One request per partition that was named, else one for all; their lines put together."""
    heads = ",".join(f"{head.at or ''} {head.hash}".strip() for head in noted)
    reports: list[object] = []
    unknown: set[str] | None = None
    with Progress(session.out) as progress:
        for one in [{"partition": number} for number in partitions] or [{}]:
            query: dict[str, object] = {**one, "deep": str(deep).lower()} | ({"since_head": heads} if heads else {})
            for line in _lines(session, query):
                if line.whole("checked") or not line.raw.keys() & {"head", "whole"}:
                    progress.doing(f"verifying partition {line.whole('partition')}: {line.whole('checked')} events")
                elif "whole" in line.raw:
                    here = set(line.words("unrecognised"))
                    unknown = here if unknown is None else unknown & here
                else:
                    reports.append(line.raw)
    if unknown is None:
        raise CliError("expected the verification's end, found that it was cut off", hint="rayfold status; ask again")
    return Document({"partitions": reports, "unrecognised": sorted(unknown)})


def _lines(session: Session, query: dict[str, object]) -> Iterator[Document]:
    with session.client.stream("/v1/log/verify", query, {}, IDLE_SECONDS) as lines:
        for line in lines:
            yield Document(json.loads(line))


def _show(session: Session, found: Document) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    for report in found.items("partitions"):
        if report.text("head"):
            session.out.line(report.text("head"))
    whole = [report for report in found.items("partitions") if not report.text("broken")]
    events = sum(report.whole("events") for report in whole)
    stored = sum(report.whole("bytes") for report in whole)
    late = [f"{r.whole('partition')}:{r.whole('chained_from')}" for r in whole if r.whole("chained_from")]
    session.out.say(
        f"{len(whole)} partitions whole: {events} events in {sum(r.whole('batches') for r in whole)} batches "
        f"({sum(r.whole('segments') for r in whole)} segments), {size(stored)}"
    )
    if missing := [report.text("snapshot_missing") for report in whole if report.text("snapshot_missing")]:
        session.out.say(
            f"{len(missing)} snapshots were deleted ({missing[0]}, …): the log is folded instead until the next"
        )
    if late:
        session.out.say(f"chained from {', '.join(late)}: older batches carry no hash of the one before")
    session.out.say("note the lines on stdout outside of this machine; later: rayfold log verify --since-head FILE")
