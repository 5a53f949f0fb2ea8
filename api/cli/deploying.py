"""`rayfold deploy`: a directory, a tar file, a URL or an image becomes a running release.

Knows packing, uploading and asking for the deploy; how an operation is followed is in `waiting`.
"""

import re
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

_HINT = (
    "give a directory, a tar file (.tar, .tar.gz, .tgz), a git URL (https://, ssh://, file://, user@host:path), a "
    "Subversion URL (svn://, svn+ssh://, svn+https://) or an image with its tag or digest (nginx:1.27, "
    "host:5000/team/app@sha256:…)"
)
_TAR = re.compile(r"\.(tar|tar\.gz|tgz)\Z")
_TAGGED = re.compile(r"[a-z0-9][^\s@]*(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})\Z")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is deployed: a directory or a tar file here, a URL or an image. The others are None or empty."""

    directory: Path | None = None
    archive: Path | None = None
    url: str = ""
    image: str = ""

    @property
    def name(self) -> str:
        """The last part of a URL, a tar file's or an image's name, without ending, tag and digest."""
        if self.archive is not None:
            return _TAR.sub("", self.archive.name)
        if self.image:
            return self.image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        url = self.url.rstrip("/").removesuffix("/trunk")
        return url.replace(":", "/").rpartition("/")[2].removesuffix(".git")


@takes_session
def deploy(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="[PATH|TAR|URL|IMAGE]", help="What to deploy.")] = ".",
    ref: Annotated[str, typer.Option("--ref", help="Branch, tag or commit; for Subversion a revision.")] = "",
    subdir: Annotated[str, typer.Option("--subdir", help="The directory in the source that holds the app.")] = "",
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Roll out a directory, a tar file, a repository or an image; the old release serves until the new one is ready."""
    origin = origin_of(source)
    _name_app(session, origin, ref)
    if origin.image and (ref or subdir):
        raise CliError(
            "--ref and --subdir are of sources; found an image", exit_code=ExitCode.USAGE, hint="name its tag instead"
        )
    out = session.out
    with Progress(out) as progress:
        if origin.image:
            what: dict[str, object] = {"kind": "image", "image": origin.image}
        else:
            what = _url_source(origin, ref, subdir) if origin.url else upload(session, origin, subdir, progress)
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
    """A directory or tar file that exists, else a URL or an image by its form. Raises CliError for anything else."""
    path = Path(text).expanduser()
    if path.is_dir():
        return Origin(directory=path.absolute())
    if path.is_file() and _TAR.search(path.name):
        return Origin(archive=path.absolute())
    scp_like = (
        "@" in text and ":" in text.partition("@")[2].removeprefix("sha256:") and "/" not in text.partition(":")[0]
    )
    if "://" in text or "::" in text or scp_like:
        return Origin(url=text)
    if not path.exists() and not text.startswith("/") and _TAGGED.match(text):
        return Origin(image=text)
    if path.exists():
        raise CliError(
            f"expected a directory or a tar file, found the file {text}", exit_code=ExitCode.USAGE, hint=_HINT
        )
    raise CliError(
        f"expected a directory, a tar file, a git URL or an image, found {text!r}, which is none of them",
        exit_code=ExitCode.USAGE,
        hint=_HINT,
    )


def _name_app(session: Session, origin: Origin, ref: str) -> None:
    """The app's context is what is deployed, not where the command is typed."""
    here = origin.directory or origin.archive
    if here is not None and ref:
        raise CliError(
            f"--ref names a branch, tag or commit of a git URL; found {here}",
            exit_code=ExitCode.USAGE,
            hint="leave it out, or deploy the repository's URL",
        )
    if origin.directory is not None:
        session.directory = origin.directory
    elif not session.app:
        name = normalised(origin.name)
        if name:
            session.app = name
            what = "image" if origin.image else "URL" if origin.url else "file"
            session.out.say(f"app {name} (from the {what}; another: --app)")


def _url_source(origin: Origin, ref: str, subdir: str) -> dict[str, object]:
    """`svn+https` and the like say here that a URL is Subversion's; svn itself knows them as `https`."""
    if origin.url.startswith(("svn:", "svn+")):
        plain = re.sub(r"\Asvn\+(https?|file)(?=:)", r"\1", origin.url)
        given = {"kind": "svn", "url": plain, "revision": ref, "subdir": subdir}
    else:
        given = {"kind": "git", "url": origin.url, "ref": ref, "subdir": subdir}
    return {key: value for key, value in given.items() if value}


def upload(session: Session, origin: Origin, subdir: str, progress: Progress) -> dict[str, object]:
    """Pack the directory and put where builders find it what of it is not there already."""
    from actors.builder.errors import BuilderError
    from actors.builder.pack import pack_directory
    from api.cli.provenance import of_directory
    from api.cli.sending import put_file, send

    session.app_name  # noqa: B018 - says which app it is before anything is packed
    if origin.archive is not None:
        progress.doing("upload")
        put = put_file(session.client, session.team_path("uploads"), origin.archive)
        progress.here("upload", "there already" if put.there else size(origin.archive.stat().st_size))
        given: dict[str, object] = {"kind": "upload", "digest": put.digest}
        return given | ({"subdir": subdir} if subdir else {})
    assert origin.directory is not None  # noqa: S101 - the caller chose by it
    progress.doing("pack")
    said = of_directory(origin.directory)
    with tempfile.TemporaryDirectory(prefix="rayfold-pack-") as directory:
        try:
            packed = pack_directory(origin.directory, Path(directory) / "source.tar.gz")
        except BuilderError as error:
            raise CliError(str(error), exit_code=ExitCode.USAGE, code=error.code) from error
        progress.here("pack", f"{packed.files} files, {size(packed.size_bytes)}")
        progress.doing("upload")
        progress.here("upload", send(session.client, session.team_path("uploads"), packed))
    given = {"kind": "upload", "digest": packed.digest, **said}
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
