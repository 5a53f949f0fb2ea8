"""`rayfold deploy`: a directory or a git URL becomes a running release.

Knows packing, uploading and asking for the deploy; how an operation is followed is in `waiting`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import ApiProblem, CliError, ExitCode
from api.cli.output import duration, size
from api.cli.progress import Progress
from api.cli.session import Session, normalised, takes_session
from api.cli.story import Story
from api.cli.waiting import DEFAULT_SECONDS, expect_success, how_to_follow, operation_path, watch
from api.cli.words import Detach, Wait, Why

_IMAGE_HINT = "give a directory or a git URL (https://, ssh://, file://, user@host:path)"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is deployed: a directory here, or a git URL. The other one is None or empty."""

    directory: Path | None = None
    url: str = ""


@takes_session
def deploy(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="[PATH|GIT_URL]", help="What to deploy.")] = ".",
    ref: Annotated[str, typer.Option("--ref", help="Branch, tag or commit of a git URL.")] = "",
    subdir: Annotated[str, typer.Option("--subdir", help="The directory in the source that holds the app.")] = "",
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Build a directory or a git repository and roll it out; the old release serves until the new one is ready."""
    origin = origin_of(source)
    _name_app(session, origin, ref)
    out = session.out
    with Progress(out) as progress:
        what = _git_source(origin, ref, subdir) if origin.url else _upload(session, origin, subdir, progress)
        progress.doing("asking for the deploy")
        answer = session.client.send("POST", session.component_path("deploys"), {"source": what, "reason": message})
        operation = answer.text("operation")
        if detach:
            out.json(answer) if out.as_json else out.line(operation)
            out.say(how_to_follow(operation))
            return
        try:
            story = watch(session, operation, progress, timeout, position=answer.text("position"))
        except CliError as error:
            if out.as_json:
                out.json(answer)
            raise error
    _report(session, story)


def origin_of(text: str) -> Origin:
    """A directory that exists, else a git URL by its form. Raises CliError for anything else."""
    path = Path(text).expanduser()
    if path.is_dir():
        return Origin(directory=path.absolute())
    scp_like = "@" in text and ":" in text.partition("@")[2] and "/" not in text.partition(":")[0]
    if "://" in text or "::" in text or scp_like:
        return Origin(url=text)
    if path.exists():
        raise CliError(f"expected a directory, found the file {text}", exit_code=ExitCode.USAGE, hint=_IMAGE_HINT)
    raise CliError(
        f"expected a directory or a git URL, found {text!r}, which is neither",
        exit_code=ExitCode.USAGE,
        hint=_IMAGE_HINT,
    )


def _name_app(session: Session, origin: Origin, ref: str) -> None:
    """The app's context is what is deployed, not where the command is typed."""
    if origin.directory is not None:
        if ref:
            raise CliError(
                "--ref names a branch, tag or commit of a git URL; found a directory",
                exit_code=ExitCode.USAGE,
                hint="leave it out, or deploy the repository's URL",
            )
        session.directory = origin.directory
    elif not session.app:
        name = normalised(origin.url.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".git"))
        if name:
            session.app = name
            session.out.say(f"app {name} (from the URL; another: --app)")


def _git_source(origin: Origin, ref: str, subdir: str) -> dict[str, object]:
    given = {"kind": "git", "url": origin.url, "ref": ref, "subdir": subdir}
    return {key: value for key, value in given.items() if value}


def _upload(session: Session, origin: Origin, subdir: str, progress: Progress) -> dict[str, object]:
    """Pack the directory and put it where builders find it, unless the same bytes are there already."""
    from actors.builder.errors import BuilderError
    from actors.builder.pack import pack_directory

    assert origin.directory is not None  # noqa: S101 - the caller chose by it
    session.app_name  # noqa: B018 - says which app it is before anything is packed
    progress.doing("pack")
    with tempfile.TemporaryDirectory(prefix="rayfold-pack-") as directory:
        try:
            packed = pack_directory(origin.directory, Path(directory) / "source.tar.gz")
        except BuilderError as error:
            raise CliError(str(error), exit_code=ExitCode.USAGE, code=error.code) from error
        progress.here("pack", f"{packed.files} files, {size(packed.size_bytes)}")
        path = session.team_path("uploads", packed.digest)
        progress.doing("upload")
        there = session.client.exists(path)
        if not there:
            session.client.upload(path, packed.path)
        progress.here("upload", "there already" if there else size(packed.size_bytes))
    given: dict[str, object] = {"kind": "upload", "digest": packed.digest}
    return given | ({"subdir": subdir} if subdir else {})


def _report(session: Session, story: Story) -> None:
    out = session.out
    seen = {"min_position": story.position}
    ending = story.ending
    good = ending is not None and ending.good
    try:
        component = session.client.get(session.component_path(), seen) if good else Document()
        operation = session.client.get(operation_path(story.operation), seen) if out.as_json else Document()
    except ApiProblem:  # the deploy stands; that it cannot be shown right now must not look like a failure
        component, operation = Document(), Document()
    if out.as_json:
        out.json({**operation.raw, "release": story.release, "urls": list(component.words("urls"))})
    expect_success(story, "the deploy", session.app_name)
    name = f"{session.app_name}/{session.component_name}"
    out.say(f"{name} v{story.release} is live after {duration(story.seconds)}")
    if not out.as_json:
        for url in component.words("urls"):
            out.line(url)
    app = f" --app {session.app_name}"
    third = "rollback" if story.release > 1 else "config set KEY=VALUE"
    out.say(f"next: rayfold logs -f{app}\n      rayfold ps{app}\n      rayfold {third}{app}")
