"""`rayfold log stats` and `rayfold log archive`: what the log keeps where, and moving it to the archive now.

Knows the two HTTP calls and how to show them.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.output import ago, size
from api.cli.session import Session, takes_session


@takes_session
def stats(session: Session) -> None:
    """How full etcd is, and each partition's events: in etcd, in the archive, in a snapshot."""
    found = session.client.get("/v1/log")
    if session.out.as_json:
        session.out.json(found)
        return
    space = found.inner("space")
    session.out.facts(
        [
            ("archive", found.text("archive")),
            ("etcd", f"{size(space.number('in_use_bytes'))} of {size(space.number('quota_bytes'))} in use "
                     f"({space.number('share'):.0%}; file {size(space.number('file_bytes'))})"),
            ("appends", "refused" if space.flag("refusing") else "taken"),
            ("archived", ago(found.text("last_archived_at"))),
            ("compacted", ago(found.text("last_compacted_at"))),
            ("trouble", found.text("trouble")),
        ]
    )  # fmt: skip
    rows = [
        [p.text("partition"), p.text("tail"), p.text("first_hot"), p.text("hot_batches"), p.text("hot_events"),
         size(p.number("hot_bytes")), p.text("segments"), size(p.number("segment_bytes")),
         p.text("snapshot_offset"), p.text("owner"), p.text("epoch")]
        for p in found.items("partitions")
    ]  # fmt: skip
    headings = ["partition", "tail", "hot from", "batches", "events", "bytes", "segments", "bytes", "snapshot", "owner",
                "epoch"]  # fmt: skip
    print()
    session.out.table(headings, rows)


@takes_session
def archive(
    session: Session,
    partition: Annotated[int | None, typer.Option(help="only this partition")] = None,
    everything: Annotated[bool, typer.Option("--all", help="also what is younger than it should be")] = False,
) -> None:
    """Archive now what is old enough, without waiting for the next round."""
    body: dict[str, object] = {"all": everything}
    if partition is not None:
        body["partition"] = partition
    found = session.client.send("POST", "/v1/log/archive", body)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [_row(segment) for segment in found.items("segments")]
    session.out.table(["partition", "from", "to", "events", "bytes", "sha256"], rows, "nothing is old enough")


def _row(segment: Document) -> list[str]:
    last = str(segment.whole("end") - 1)
    return [segment.text("partition"), segment.text("base"), last, segment.text("events"),
            size(segment.number("bytes")), segment.text("sha256")[:12]]  # fmt: skip
