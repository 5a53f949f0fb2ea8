"""`rayfold template`: publish a running app as a versioned package, install it, upgrade what was installed, carry it
offline as a file.

Knows what can be said of templates; what an upgrade comes to, the platform computes.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import new_key
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.given import pair, typed_in
from api.cli.output import ago, size
from api.cli.progress import Progress
from api.cli.saving import save_whole
from api.cli.sending import put_file
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, expect_success, how_to_follow, watch
from api.cli.words import Detach, Wait, Why

template = typer.Typer(
    help="Apps as versioned packages: list, show, versions, publish, install, upgrade, export, import, remove."
)

_WORDS = {
    "change": "change", "keep": "keep yours", "conflict": "CONFLICT: yours is kept",
    "take": "conflict: theirs is taken", "add": "add", "give": "needs a value", "leave": "left as it is",
}  # fmt: skip

Which = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The newest version where none is named.")]
Exactly = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="As rayfold template list shows it.")]
Values = Annotated[list[str] | None, typer.Option("--set", metavar="COMPONENT.KEY=VALUE", help="- asks for it.")]


@template.callback(invoke_without_command=True)
@takes_session
def template_root(session: Session) -> None:
    """The team's templates."""
    _list(session, session.team_path("templates"))


@template.command("list")
@takes_session
def template_list(session: Session) -> None:
    """The team's templates, every version, the newest first."""
    _list(session, session.team_path("templates"))


@template.command("versions")
@takes_session
def template_versions(session: Session, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """The versions of one template, the newest first."""
    _list(session, session.team_path("templates", name, "versions"))


def _list(session: Session, path: str) -> None:
    found = session.client.items(path)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [f"{f.text('name')}@{f.text('version')}", ", ".join(c.text("name") for c in f.items("components")),
         f.text("source"), ago(f.text("published_at")), f.text("digest")[:12], f.text("description")]
        for f in found
    ]  # fmt: skip
    headings = ["template", "components", "from", "published", "content", "description"]
    session.out.table(headings, rows, "no template yet: rayfold template publish APP --name N --version V")


@template.command("show")
@takes_session
def template_show(session: Session, which: Which) -> None:
    """One version: its components, and the variables that have to be given."""
    found = _version(session, which)
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.facts(
        [("template", f"{found.text('name')}@{found.text('version')}"), ("content", found.text("digest")),
         ("from", found.text("source")), ("description", found.text("description"))]
    )  # fmt: skip
    components = found.items("components")
    rows = [
        [c.text("name"), c.text("process"), c.text("artifact")[:12], size(c.whole("size_bytes")), c.text("scale"),
         ", ".join(c.words("needs")), ", ".join(c.words("crons"))]
        for c in components
    ]  # fmt: skip
    session.out.table(["component", "process", "artifact", "size", "scale", "needs", "cron"], rows, "")
    named = [
        [f"{c.text('name')}.{key}", _value(Document(variable))]
        for c in components
        for key, variable in c.inner("variables")
    ]
    session.out.table(["variable", "value"], named, "no variable")


def _value(variable: Document) -> str:
    if variable.text("same_as"):
        return f"(as {variable.text('same_as')})"
    if variable.flag("required"):
        return "(to be given)"
    return "(made up when installed)" if variable.flag("generated") else variable.text("value")


def _version(session: Session, which: str) -> Document:
    name, at, version = which.partition("@")
    if at:
        return session.client.get(session.team_path("templates", name, "versions", version))
    return session.client.items(session.team_path("templates", name, "versions"), limit=1)[0]


def _both(which: str) -> tuple[str, str]:
    name, _, version = which.partition("@")
    if not name or not version:
        raise CliError(
            f"expected NAME@VERSION, found {which!r}", exit_code=ExitCode.USAGE, hint="rayfold template list"
        )
    return name, version


@template.command("publish")
@takes_session
def template_publish(
    session: Session,
    running: Annotated[str, typer.Argument(metavar="APP", help="The app as it runs now.")],
    name: Annotated[str, typer.Option("--name", help="The template's name.")],
    version: Annotated[str, typer.Option("--version", help="It never changes once it is published.")],
    describe: Annotated[str, typer.Option("--describe", help="What it is.")] = "",
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="COMPONENT.KEY", help="To be given when installed.")
    ] = None,
    generate: Annotated[
        list[str] | None, typer.Option("--generate", metavar="COMPONENT.KEY", help="Made up when installed.")
    ] = None,
    message: Why = "",
) -> None:
    """Publish a running app as a version of a template. Values of secrets stay here."""
    body = {
        "name": name, "version": version, "app": running, "description": describe, "required": require or [],
        "generated": generate or [], "reason": message,
    }  # fmt: skip
    _told(session, session.client.send("POST", session.team_path("templates"), body))


def _told(session: Session, answer: Document) -> None:
    if session.out.as_json:
        session.out.json(answer)
        return
    which = f"{answer.text('name')}@{answer.text('version')}"
    done = "is published" if answer.flag("published") else "was there already, with the same content"
    session.out.say(f"{which} {done}; next: rayfold template install {which} --app NEW")
    session.out.line(answer.text("digest"))


@template.command("install")
@takes_session
def template_install(
    session: Session,
    which: Which,
    values: Values = None,
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Make a new app (--app) of a template. Run it again to go on after it was cut off."""
    if not session.app:
        raise CliError("expected --app NEW, found none", exit_code=ExitCode.USAGE, hint="name the app to be made")
    name, _, version = which.partition("@")
    body = {"app": session.app, "version": version or None, "set": _given(values), "reason": message}
    path = session.team_path("templates", name, "installs")
    _carry_out(session, path, body, f"install {which} as {session.app}", detach=detach, seconds=timeout)


def _given(values: list[str] | None) -> dict[str, str]:
    given = typed_in(dict(pair(text) for text in values or []))
    if wrong := [name for name in given if "." not in name]:
        raise CliError(f"expected COMPONENT.KEY=VALUE, found {wrong[0]}=…", exit_code=ExitCode.USAGE)
    return given


def _carry_out(
    session: Session, path: str, body: Mapping[str, object], what: str, *, detach: bool, seconds: float
) -> None:
    key, until, followed = new_key(), time.monotonic() + seconds, dict[str, str]()
    while True:
        answer = session.client.send("POST", path, body, key=key)
        followed |= {step.text("component"): step.text("operation") for step in answer.items("operations")}
        if answer.flag("finished"):
            break
        if time.monotonic() > until:
            waiting = answer.text("waiting_for")
            raise CliError(f"{what} is still going", exit_code=ExitCode.TIMED_OUT, hint=how_to_follow(waiting))
    if session.out.as_json:
        session.out.json(answer)
    for component, operation in followed.items():
        if detach:
            session.out.say(f"{component}: {operation}")
            continue
        with Progress(session.out) as progress:
            story = watch(session, operation, progress, max(1.0, until - time.monotonic()))
        expect_success(story, f"{what}: {component}", answer.text("app"))
    session.out.say(f"{what}: {'begun' if detach and followed else 'done'}")


@template.command("upgrade")
@takes_session
def template_upgrade(
    session: Session,
    installed: Annotated[str, typer.Argument(metavar="APP", help="An app that was installed from a template.")],
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="The newest by default.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    take_theirs: Annotated[
        bool, typer.Option("--take-theirs", help="Where both changed something, take the template's.")
    ] = False,
    values: Values = None,
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Upgrade an app to another version of its template; what you changed yourself is kept, and named."""
    path = session.team_path("apps", installed, "upgrade")
    seen = session.client.get(path, {"to": to, "take_theirs": take_theirs})
    if dry_run and session.out.as_json:
        session.out.json(seen)
        return
    if not session.out.as_json:
        rows = [
            [c.text("component"), c.text("attribute"), _cell(c, "now"), _cell(c, "new"), _WORDS[c.text("action")]]
            for c in seen.items("changes")
        ]
        headings = ["component", "attribute", "now", "in the new version", "what will be done"]
        session.out.table(headings, rows, f"nothing differs from {seen.text('template')}@{seen.text('to')}")
    given = _given(values)
    if lacking := [name for name in seen.words("missing") if name not in given]:
        session.out.say(f"to be given: {' '.join(f'--set {name}=…' for name in lacking)}")
    if dry_run:
        return
    # What was shown is what is done, whatever is published meanwhile.
    body = {"to": seen.text("to"), "take_theirs": take_theirs, "set": given, "reason": message}
    what = f"upgrade {installed} from {seen.text('from')} to {seen.text('to')}"
    _carry_out(session, path, body, what, detach=detach, seconds=timeout)


def _cell(change: Document, field: str) -> str:
    value = change.raw.get(field)
    if value is None:
        return "(none)"
    text = str(value)
    return text[:12] if change.text("attribute") == "artifact" else text


@template.command("export")
@takes_session
def template_export(
    session: Session, which: Exactly, output: Annotated[Path, typer.Option("--output", "-o", help="The file.")]
) -> None:
    """Write a version with all it needs to one file, which installs without a network."""
    name, version = _both(which)
    save_whole(session, session.team_path("templates", name, "versions", version, "file"), None, output)
    session.out.say(f"{output}: {which}, {size(output.stat().st_size)}; elsewhere: rayfold template import {output}")


@template.command("import")
@takes_session
def template_import(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of rayfold template export.")],
    name: Annotated[str, typer.Option("--name", help="Another name than the file's.")] = "",
    message: Why = "",
) -> None:
    """Check an exported file to its last byte and publish what it holds."""
    put = put_file(session.client, session.team_path("uploads"), file)
    body = {"upload": put.digest, "name": name or None, "reason": message}
    _told(session, session.client.send("POST", session.team_path("template-imports"), body))


@template.command("remove")
@takes_session
def template_remove(session: Session, which: Exactly, message: Why = "") -> None:
    """Have a version no more. Apps that were installed from it go on."""
    name, version = _both(which)
    path = session.team_path("templates", name, "versions", version)
    answer = session.client.send("DELETE", path, query={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"{which} is removed; apps that have it go on")
