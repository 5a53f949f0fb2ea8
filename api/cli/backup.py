"""`rayfold backup`: the log into one sealed file, the file checked, and put back into an empty platform.

Works on the data directory itself, whether the platform runs or not; nothing of it goes over HTTP.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from api.cli.backup_place import BackupPlace, Credentials, Endpoint, Region, backup_place, taken
from api.cli.errors import CliError, ExitCode
from api.cli.output import clock, size
from api.cli.progress import Progress
from api.cli.session import Session, takes_session
from events.clock import now_micros

if TYPE_CHECKING:
    from events.log.backup.bucket import BucketBackup
    from events.log.backup.container import BackupReader
    from events.log.backup.read import Verified
    from events.log.chain import NotedHead

T = TypeVar("T")

ARTIFACTS = "artifacts"
NOT_IN_IT = (
    "not in it: the master key (master.key: without it sealed values stay sealed), config.toml, tokens/, logs/, "
    "uploads/"
)

BUCKET_HINT = (
    "is the bucket's address right, and are there keys for it? --endpoint URL, --region NAME and --credentials-file "
    "FILE, or log.archive_endpoint and so on in config.toml"
)

File = Annotated[str, typer.Argument(metavar="FILE|URL", help="The backup.")]
SinceHead = Annotated[
    str,
    typer.Option("--since-head", metavar="FILE|HASH", help="A head noted earlier: was history rewritten since?"),
]

backup = typer.Typer(help="The log into one file, and back: create, verify, restore.", no_args_is_help=True)


@backup.command("create")
@takes_session
def create(
    session: Session,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR|URL", help="A new file (a path, or s3://bucket/name.tar), or where to put one."
        ),
    ],
    with_artifacts: Annotated[bool, typer.Option("--with-artifacts", help="Take along what builds made.")] = False,
    endpoint: Endpoint = "",
    region: Region = "",
    credentials_file: Credentials = "",
) -> None:
    """Write the log, hot and archived, into one new file. The platform may run; applications notice nothing."""
    from api.log_access import open_log
    from events.log.backup.create import Made, create_backup
    from events.log.backup.source import EtcdLogSource

    trees = {ARTIFACTS: session.data_dir / ARTIFACTS} if with_artifacts else {}

    async def work(place: BackupPlace, progress: Callable[[int, int], None]) -> Made:
        if place.bucket is not None and await place.bucket.exists():
            raise taken(place.shown)
        async with open_log(session.data_dir) as log:
            source = await EtcdLogSource.open(log.client, log.blobs)
            now = now_micros()
            made = await create_backup(source, place.path, created_at=now, trees=trees, progress=progress)
        if place.bucket is not None:
            await place.bucket.keep(place.path)
        return made

    with log_errors(), backup_place(session, file, endpoint, region, credentials_file, new=True) as place:
        made = run_counting(session, "backing up", partial(work, place))
        shown = str(place.path) if place.bucket is None else place.shown
    heads = [str(part.head) for part in made.manifest.partitions if part.head.offset]
    if session.out.as_json:
        session.out.json(
            {
                "file": shown,
                "bytes": made.bytes,
                "events": made.manifest.events,
                "sha256": made.seal,
                "heads": heads,
            }
        )
    else:
        session.out.facts(
            [
                ("file", shown),
                ("size", size(made.bytes)),
                ("events", str(made.manifest.events)),
                ("sha256", made.seal),
            ]
        )
    session.out.say(NOT_IN_IT + ("" if with_artifacts else ", artifacts/ (--with-artifacts)"))


@backup.command("verify")
@takes_session
def verify(
    session: Session,
    file: File,
    since_head: SinceHead = "",
    endpoint: Endpoint = "",
    region: Region = "",
    credentials_file: Credentials = "",
) -> None:
    """Check every byte and every link of a backup; needs no platform. Exits 1 when something is wrong."""
    noted = noted_heads(since_head)
    with _opened(session, file, endpoint, region, credentials_file) as reader:
        found = _verified(session, reader, noted)
    if session.out.as_json:
        session.out.json(
            {
                "whole": True,
                "file": file,
                "events": found.manifest.events,
                "sha256": found.seal,
                "created_at": _time(found.manifest.created_at),
                "heads": [str(report.head) for report in found.reports if report.events],
            }
        )
        return
    _show(session, file, found)


@backup.command("restore")
@takes_session
def restore(
    session: Session, file: File, endpoint: Endpoint = "", region: Region = "", credentials_file: Credentials = ""
) -> None:
    """Put a backup into an empty platform: a new data directory (--data DIR), or an empty etcd named in its config."""
    from actors.cluster.settings import MASTER_KEY_FILE
    from api.log_access import open_log
    from events.log.backup.restore import restore_backup, restore_begun
    from events.secrets.table import EtcdKeyTable

    data = session.data_dir
    trees = {ARTIFACTS: data / ARTIFACTS}
    brought = (data / MASTER_KEY_FILE).exists()
    with log_errors():
        stray = _in_the_way(data)
    if stray is not None and not (data / "etcd" / "data").is_dir():
        raise _not_empty(data, stray)
    with _opened(session, file, endpoint, region, credentials_file) as reader:
        found = _verified(session, reader, ())

        async def work(progress: Callable[[int, int], None]) -> str:
            async with open_log(data, make=True) as log:
                if stray is not None and not await restore_begun(log.client):
                    raise _not_empty(data, stray)
                now = now_micros()
                await restore_backup(reader, log.client, log.blobs, now=now, trees=trees, progress=progress)
                return (await EtcdKeyTable(log.client).fence()).master

        wanted = run_counting(session, "restoring", work)
    _expect_partitions(session, found)
    if session.out.as_json:
        session.out.json(
            {"data": str(data), "events": found.manifest.events, "sha256": found.seal, "master_key": wanted}
        )
    else:
        _show(session, file, found)
    session.out.say(NOT_IN_IT + ("" if ARTIFACTS in found.manifest.trees else ", artifacts/") + "; copy what you have")
    _expect_master_key(session, wanted, brought=brought)
    session.out.say(f"next: rayfold up --detach --data {data}")


def noted_heads(given: str) -> "list[NotedHead]":
    """What `--since-head` names: a file with heads, or a head or hash itself. Raises CliError."""
    from events.log.chain import parse_heads

    if not given:
        return []
    try:
        path = Path(given)
        return parse_heads(path.read_text(encoding="utf-8") if path.is_file() else given)
    except (ValueError, OSError) as error:
        raise CliError(
            f"--since-head: {error}", exit_code=ExitCode.USAGE, hint="rayfold log verify prints heads; keep its output"
        ) from error


@contextmanager
def log_errors() -> Iterator[None]:
    """What the log, the archive and the file system refuse, as the command line's own errors."""
    from api.config import BadConfig
    from api.log_access import NoLogHere
    from api.place import PlaceUnusable
    from events.log.backup.container import BackupDamaged
    from events.log.backup.restore import NotEmpty
    from events.log.errors import ArchiveUnavailable, LogError, LogUnavailable

    try:
        yield
    except BackupDamaged as error:
        raise CliError(str(error), hint="take another backup; this one is not whole", code="backup_damaged") from error
    except NotEmpty as error:
        raise CliError(str(error), exit_code=ExitCode.CONFLICT, code="not_empty") from error
    except NoLogHere as error:
        raise CliError(str(error), exit_code=ExitCode.NOT_FOUND) from error
    except ArchiveUnavailable as error:
        raise CliError(str(error), hint=BUCKET_HINT, code="archive_unavailable") from error
    except LogUnavailable as error:
        raise CliError(str(error), hint="rayfold status; the same command again", code="log_unavailable") from error
    except (LogError, BadConfig, PlaceUnusable) as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename or 'the backup'}: {error.strerror or error}") from error


@contextmanager
def _opened(session: Session, file: str, endpoint: str, region: str, credentials_file: str) -> "Iterator[BackupReader]":
    from events.log.backup.container import BackupReader

    async def fetch(bucket: "BucketBackup", path: Path, progress: Callable[[int, int], None]) -> None:
        await bucket.fetch(path)

    with log_errors(), backup_place(session, file, endpoint, region, credentials_file) as place:
        if place.bucket is not None:
            run_counting(session, "fetching", partial(fetch, place.bucket, place.path))
        with closing(BackupReader(place.path, place.shown)) as reader:
            yield reader


def _verified(session: Session, reader: "BackupReader", noted: "list[NotedHead] | tuple[()]") -> "Verified":
    from events.log.backup.read import verify_backup
    from events.log.verify import unrecognised

    found = run_counting(session, "verifying", lambda progress: verify_backup(reader, noted=noted, progress=progress))
    if unknown := unrecognised(noted, found.reports):
        raise CliError(f"expected the noted hash {unknown[0]} in this history, found it nowhere", code="log_rewritten")
    return found


def _expect_partitions(session: Session, found: "Verified") -> None:
    """The platform must be started with the partitions that the log has: said now, not when it refuses to start."""
    from actors.cluster.settings import EMBEDDED_PARTITIONS
    from api.config import load_config

    configured = load_config(session.data_dir).partitions or EMBEDDED_PARTITIONS
    stored = found.manifest.layout.partitions
    if configured != stored:
        session.out.say(f"put `partitions = {stored}` into {session.data_dir / 'config.toml'}: the log has so many")


def _in_the_way(data: Path) -> Path | None:
    from api.config import load_config
    from api.place import in_the_way

    credentials = load_config(data).log.settings(data).archive.credentials_file
    return in_the_way(data, Path(credentials) if credentials else None)


def _not_empty(data: Path, stray: Path) -> CliError:
    return CliError(
        f"expected an empty directory {data} to restore into, found {stray}",
        exit_code=ExitCode.CONFLICT,
        hint="--data NEW_DIR; only master.key, config.toml, tokens/, logs/ and uploads/ may be there before",
        code="not_empty",
    )


def _expect_master_key(session: Session, wanted: str, *, brought: bool) -> None:
    """The log says which key wraps its secrets: another one in the file opens none, and nothing else would say so."""
    from actors.cluster.settings import MASTER_KEY_FILE
    from events.secrets.errors import MasterKeyUnusable
    from events.secrets.master import read_masters

    path = session.data_dir / MASTER_KEY_FILE
    try:
        found = [master.id for master in read_masters(path)]
    except MasterKeyUnusable as error:
        session.out.say(f"ATTENTION: {error}")
        return
    if wanted and wanted not in found:
        made = "" if brought else ", made just now"
        session.out.say(
            f"ATTENTION: the log's secrets need the master key {wanted}, {path} holds {', '.join(found)}{made}: put "
            f"the {MASTER_KEY_FILE} of where the backup is from there before rayfold up"
        )


def _show(session: Session, file: str, found: "Verified") -> None:
    session.out.facts(
        [
            ("file", file),
            ("whole", "ok"),
            ("made", clock(_time(found.manifest.created_at))),
            ("events", str(found.manifest.events)),
            ("sha256", found.seal),
        ]
    )


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat()


def run_counting(session: Session, what: str, work: Callable[[Callable[[int, int], None]], Awaitable[T]]) -> T:
    """Run `work` in an event loop of its own, showing what it counts."""
    import asyncio  # here, for most commands need none and should start fast

    async def counted(progress: Progress) -> T:
        return await work(lambda partition, events: progress.doing(f"{what} partition {partition}: {events} events"))

    with log_errors(), Progress(session.out) as progress:
        progress.doing(what)
        return asyncio.run(counted(progress))
