"""`rayfold compose --apply`: makes what a Compose file comes to, component by component, each after what it needs.

Looks at what is there and asks for what is missing, so that a second run goes on where the first one stopped.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.deploying import Origin, upload
from api.cli.document import Document
from api.cli.errors import ApiProblem
from api.cli.given import looks_secret
from api.cli.progress import Progress
from api.cli.session import Session
from api.cli.waiting import carry_out, operation_path

if TYPE_CHECKING:
    from actors.compose.model import ComposeApp, ComposeComponent

_REASON = "compose file"


def apply_compose(session: Session, found: "ComposeApp", beside: Path, seconds: float) -> None:
    """Make all of `found`; `beside` is the directory that its paths start at. Stops at the first failure: CliError.

    `seconds` is how long each operation is waited for.
    """
    session.app = found.name
    _ensured(session, session.team_path("apps"), session.app_path(), {"name": found.name})
    for each in found.components:
        session.component = each.name
        body = {"name": each.name, "process": "web", "http": each.http}
        there = _ensured(session, session.app_path("components"), session.component_path(), body)
        if operation := there.text("operation"):
            carry_out(session, Document({"operation": operation}), f"{each.name}: what is under way", seconds=seconds)
        # Before the source: what is deployed first starts with them already.
        seen = _configure(session, each, seconds)
        _deploy(session, each, beside, seen, seconds)


def _ensured(session: Session, made_by: str, path: str, body: dict[str, object]) -> Document:
    """What is at `path`, made by a POST to `made_by` unless it is there."""
    try:
        answer = session.client.send("POST", made_by, {**body, "reason": _REASON})
    except ApiProblem as problem:
        if problem.status != 409:
            raise
        return session.client.get(path)
    return session.client.get(path, {"min_position": answer.text("position")})


def _configure(session: Session, each: "ComposeComponent", seconds: float) -> str:
    """Variables, settings and number of instances; a position at which all that was before them is told of."""
    there = session.read("config")
    # A secret cannot be compared, and setting it again would be a new release each time.
    secret = {key: value for key, value in each.config.items() if looks_secret(key, value)}
    kept = sorted(secret.keys() & there.pairs("config").keys())
    if kept:
        session.out.say(
            f"{each.name}: left as they are: {', '.join(kept)} (another value: rayfold config set --secret)"
        )
    parts = {
        "set": {key: value for key, value in each.config.items() if key not in secret},
        "secret": {key: value for key, value in secret.items() if key not in kept},
    }
    body: dict[str, object] = {name: values for name, values in parts.items() if values}
    if body:
        answer = session.write("PATCH", "config", body={**body, "reason": _REASON})
        carry_out(session, answer, f"{each.name}: variables", seconds=seconds)
    settings = {key: str(value) for key, value in each.settings.items()}
    if each.probe_path:
        settings["probe_path"] = each.probe_path
    body = {"scale": each.scale, "settings": settings, "reason": _REASON}
    answer = session.write("PATCH", body=body)
    carry_out(session, answer, f"{each.name}: settings and scale", seconds=seconds)
    return answer.text("position")


def _deploy(session: Session, each: "ComposeComponent", beside: Path, seen: str, seconds: float) -> None:
    """`seen`: a position of the log at which every earlier deploy that could be told of stands."""
    what = f"{each.name}: deploy"
    if each.image:
        source: dict[str, object] = {"kind": "image", "image": each.image}
    else:
        with Progress(session.out) as progress:
            source = upload(session, Origin(directory=(beside / each.directory).absolute()), "", progress)
    query = {"min_position": seen, "limit": 1}
    newest = next(iter(session.client.items(session.component_path("builds"), query, 1)), Document())
    if newest.raw and _same(newest.pairs("source"), source):
        release = session.read(query={"min_position": seen}).whole("release")
        ended = session.client.get(operation_path(newest.text("operation")), {"min_position": seen}).text("status")
        if ended == "succeeded" and release:
            session.out.say(f"{what}: v{release} has it already (anew: rayfold deploy)")
            return
    # The same key until a build is there: a request whose answer was lost does not become a second deploy.
    told = [session.team_name, session.app_name, each.name, newest.text("build"), *map(str, source.values())]
    key = "compose-" + hashlib.sha256("\0".join(told).encode()).hexdigest()[:40]
    path = session.component_path("deploys")
    answer = session.client.send("POST", path, {"source": source, "reason": _REASON}, key=key)
    carry_out(session, answer, what, seconds=seconds)


def _same(built: dict[str, str], source: dict[str, object]) -> bool:
    if source["kind"] == "image":
        return built.get("kind") == "image" and source["image"] in (built.get("ref"), built.get("url"))
    return built.get("kind") == "upload" and built.get("digest") == source["digest"]
