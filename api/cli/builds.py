"""`rayfold builds`: what was built, its output, what it is made of, stopping one, and what is kept.

Knows builds; nothing of what follows from one.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.loglines import shown
from api.cli.output import ago, duration, moment
from api.cli.outputs import tell_output
from api.cli.releases import show_changes
from api.cli.session import Session, takes_session
from api.cli.words import Limit, Why

builds = typer.Typer(help="Builds: list, look at, read the output, compare, cancel, prune.")

BuildId = Annotated[str, typer.Argument(metavar="[BUILD]", help="The newest by default.", show_default=False)]


@builds.callback(invoke_without_command=True)
@takes_session
def list_builds(session: Session, limit: Limit = 20) -> None:
    """Builds of the component, newest first."""
    found = session.listed("builds", limit=limit)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [b.text("build"), b.text("status"), ago(b.text("requested_at")), _took(b), b.text("commit")[:12] or "-",
         b.text("reason", "detected")]
        for b in found
    ]  # fmt: skip
    session.out.table(["build", "status", "requested", "took", "commit", "said"], rows, "no build yet: rayfold deploy")


@builds.command("info")
@takes_session
def build_info(session: Session, build: BuildId = "") -> None:
    """A build: its source, what was detected, how it ended."""
    found = session.read("builds", _chosen(session, build))
    if session.out.as_json:
        session.out.json(found)
        return
    source = found.pairs("source")
    session.out.facts(
        [
            ("build", found.text("build")),
            ("status", found.text("status")),
            ("source", " ".join(source[key] for key in _source_keys(source) if source.get(key))),
            ("commit", found.text("commit")),
            ("author", shown(found.text("author"))),
            ("detected", found.text("detected")),
            ("artifact", found.text("artifact")),
            ("attempt", str(found.whole("attempt"))),
            ("took", _took(found) + (" (cached)" if found.flag("cache_hit") else "")),
            ("operation", found.text("operation")),
            ("reason", found.text("reason")),
        ]
    )
    for line in found.words("lines"):
        session.out.say(f"  {shown(line)}")


def _source_keys(source: dict[str, str]) -> list[str]:
    """In the order shown. What an upload's `ref` says stands as commit and author already."""
    keys = ["kind", "url", "ref", "digest", "subdir"]
    return [key for key in keys if key != "ref" or source.get("kind") != "upload"]


@builds.command("output")
@takes_session
def build_output(
    session: Session,
    build: BuildId = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build ends.")] = False,
) -> None:
    """The output of a build."""
    chosen = _chosen(session, build)
    tell_output(session, session.component_path("builds", chosen, "output"), follow)


@builds.command("cancel")
@takes_session
def cancel_build(session: Session, build: BuildId = "", message: Why = "") -> None:
    """Stop a build; its deploy ends as cancelled."""
    chosen = _chosen(session, build)
    answer = session.write("POST", "builds", chosen, "cancel", body={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"build {chosen} is being cancelled")


@builds.command("sbom")
@takes_session
def build_sbom(session: Session, build: BuildId = "") -> None:
    """The bill of materials of what a build made: CycloneDX 1.6, as JSON."""
    session.out.json(session.read("builds", _chosen(session, build), "sbom"))


@builds.command("diff")
@takes_session
def diff_builds(
    session: Session,
    before: Annotated[str, typer.Argument(metavar="BUILD")],
    after: Annotated[str, typer.Argument(metavar="BUILD")],
) -> None:
    """What changed from one build to another: commit, dependencies, size, how it is started."""
    found = session.read("builds", before, "diff", query={"to": after})
    if session.out.as_json:
        session.out.json(found)
        return
    show_changes(session, found.items("changes"))
    packages = found.items("packages") if found.raw.get("packages") is not None else []
    for package in packages:
        sides = [package.text(side) or "(none)" for side in ("before", "after")]
        session.out.line(f"{package.text('package')}: {sides[0]} → {sides[1]}")
    if missing := found.text("packages_missing"):
        session.out.say(f"dependencies are not compared: {missing}")
    elif not packages:
        session.out.say("the same dependencies")


@builds.command("prune")
@takes_session
def prune_builds(
    session: Session,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="How many of the newest releases stay.")] = None,
    always: Annotated[bool, typer.Option("--always", help="Keep to this number from now on, too.")] = False,
    message: Why = "",
) -> None:
    """Give up old releases, and remove what nothing refers to any more. What serves or runs stays in any case."""
    kept = session.read("retention").whole("keep") if keep is None else keep
    if always:
        session.write("PATCH", "retention", body={"keep": kept, "reason": message})
    answer = session.write("POST", "retention", "prune", body={"keep": kept, "reason": message})
    if session.out.as_json:
        session.out.json(answer)
        return
    gone = answer.raw.get("releases")
    numbers = [f"v{number}" for number in gone] if isinstance(gone, list) else []
    session.out.say(f"pruned: {', '.join(numbers)}" if numbers else f"nothing to prune: {kept} releases are kept")
    if freed := answer.raw.get("freed_bytes"):
        session.out.say(f"{freed} bytes were freed")
    if trouble := answer.text("trouble"):
        session.out.say(f"nothing was removed from disk yet: {trouble}")
    if told := answer.text("told"):
        session.out.say(told)


def _chosen(session: Session, build: str) -> str:
    if build:
        return build
    newest = session.listed("builds", limit=1)
    if not newest:
        raise CliError("expected a build, found none", exit_code=ExitCode.NOT_FOUND, hint="rayfold deploy")
    return newest[0].text("build")


def _took(build: Document) -> str:
    begun, ended = moment(build.text("started_at", "requested_at")), moment(build.text("ended_at"))
    return duration((ended - begun).total_seconds()) if begun and ended else "-"
