"""Where a backup is, as the command line names it: a file, a directory, or a bucket by way of a file of the moment.

Knows addresses and the options that open a bucket; nothing of what a backup holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.session import Session

if TYPE_CHECKING:
    from events.log.backup.bucket import BucketBackup

Endpoint = Annotated[
    str, typer.Option("--endpoint", metavar="URL", help="Of an S3-compatible server; else as for the archive.")
]
Region = Annotated[str, typer.Option("--region", metavar="NAME", help="Of the bucket; else as for the archive.")]
Credentials = Annotated[
    str,
    typer.Option("--credentials-file", metavar="FILE", help="The bucket's keys (TOML, 0600); else as for the archive."),
]


@dataclass(frozen=True, kw_only=True)
class BackupPlace:
    """`shown` is how a person knows it; `path` the local file; `bucket` where that comes from or goes, if anywhere."""

    shown: str
    path: Path
    bucket: "BucketBackup | None" = None


@contextmanager
def backup_place(
    session: Session, address: str, endpoint: str, region: str, credentials: str, *, new: bool = False
) -> Iterator[BackupPlace]:
    """The place that `address` names. `new`: for a file to be made; a directory, or a prefix, gets a name in it.

    Raises CliError. A bucket's local file is in a directory of its own below TMPDIR, and gone at the end.
    """
    from events.log.backup.bucket import local_path

    try:
        path = local_path(address)
        bucket = None if path else _bucket(session, address, endpoint, region, credentials, new=new)
    except ValueError as error:
        raise CliError(str(error), exit_code=ExitCode.USAGE) from error
    if path is not None:
        yield BackupPlace(shown=address, path=_new_file(path) if new else path.expanduser())
    if bucket is None:
        return
    with TemporaryDirectory(prefix="rayfold-backup-") as directory:
        yield BackupPlace(shown=bucket.address, path=Path(directory, "backup.tar"), bucket=bucket)


def _bucket(
    session: Session, address: str, endpoint: str, region: str, credentials: str, *, new: bool
) -> "BucketBackup":
    """Raises ValueError."""
    from api.config import load_config
    from events.log.backup.bucket import BucketBackup
    from events.log.blobs import ArchiveSettings

    known = load_config(session.data_dir).log.settings(session.data_dir).archive
    settings = ArchiveSettings(
        url=address,
        endpoint=endpoint or known.endpoint,
        region=region or known.region,
        credentials_file=credentials or known.credentials_file,
    )
    return BucketBackup(settings, _name() if new else "")


def _new_file(given: Path) -> Path:
    path = given.expanduser().absolute()
    if path.is_dir():
        path = path / _name()
    if path.exists():
        raise taken(str(path))
    if not path.parent.is_dir():
        raise CliError(
            f"expected a directory {path.parent}, found none", exit_code=ExitCode.USAGE, hint="make it first"
        )
    return path


def taken(place: str) -> CliError:
    """There is something of that name."""
    return CliError(f"expected a new file, found {place}", exit_code=ExitCode.CONFLICT, hint="give another name")


def _name() -> str:
    return f"rayfold-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
