"""The event log as it is kept: how full it is, and archiving now. Only asks the platform and shows what it says."""

from datetime import UTC, datetime

from aiohttp import web

from actors.archiver import LogReport
from api.http import schema_log as v
from api.http.answers import answer
from api.http.call import Call
from api.http.problems import not_found


async def log_stats(call: Call) -> web.Response:
    return answer(_shown(await call.context.services.platform.log_report()))


async def archive_log(call: Call) -> web.Response:
    asked = call.body_as(v.ArchiveLog)
    count = call.context.partitions
    if asked.partition is not None and asked.partition >= count:
        raise not_found(
            f"there is no partition {asked.partition}; they go from 0 to {count - 1}", hint="rayfold log stats"
        )
    partitions = range(count) if asked.partition is None else [asked.partition]
    made = await call.context.services.platform.archive_log(list(partitions), everything=asked.all)
    segments = [
        v.SegmentView(
            partition=partition,
            base=segment.base,
            end=segment.end,
            events=segment.events,
            bytes=segment.bytes,
            location=segment.location,
            sha256=segment.sha256,
        )
        for partition, segment in made
    ]
    return answer(v.Archived(segments=segments))


def _shown(report: LogReport) -> v.LogView:
    status, space = report.status, report.status.space
    return v.LogView(
        archive=report.archive,
        space=v.SpaceView(
            quota_bytes=space.quota_bytes,
            in_use_bytes=space.in_use,
            file_bytes=space.file,
            share=round(space.share, 4),
            archive_from_share=report.budget.hot,
            refuse_from_share=report.budget.refuse,
            refusing=status.refusing,
            members=[
                v.MemberView(
                    endpoint=member.endpoint,
                    version=member.version,
                    leads=member.leads,
                    file_bytes=member.db_size,
                    in_use_bytes=member.db_in_use,
                )
                for member in report.members
            ],
        ),
        trouble=status.trouble,
        last_archived_at=_time(status.last_archived_at),
        last_compacted_at=_time(status.last_compacted_at),
        last_defragmented_at=_time(status.last_defragmented_at),
        partitions=[
            v.PartitionView(
                partition=use.partition,
                tail=use.tail,
                first_hot=use.first_hot,
                archived_through=use.first_hot - 1 if use.first_hot else None,
                hot_batches=use.hot_batches,
                hot_bytes=use.hot_bytes,
                hot_events=use.hot_events,
                segments=use.segments,
                segment_bytes=use.segment_bytes,
                snapshot_offset=use.snapshot_offset,
                owner=owner or None,
                epoch=epoch or None,
            )
            for use, (owner, epoch) in zip(report.uses, report.owners, strict=True)
        ],
    )


def _time(at: int) -> datetime | None:
    return datetime.fromtimestamp(at / 1e6, UTC) if at else None


HANDLERS = {"logStats": log_stats, "archiveLog": archive_log}
