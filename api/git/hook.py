"""The pre-receive hook: what is pushed to main is deployed before git takes it, and its failure refuses the push.

git runs it in the repository with the new objects at hand; it speaks to the platform as whoever pushes, over HTTP. What
it writes to stderr is what git shows, line by line.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from api.cli.client import ApiClient, quote
from api.cli.document import Document
from api.cli.errors import CliError
from api.cli.feed import Feed
from api.cli.loglines import shown
from api.cli.place import Address
from api.cli.provenance import of_commit

BRANCHES = ("refs/heads/main", "refs/heads/master")
DEPLOY_SECONDS = 2 * 3600.0
POLL_SECONDS = 0.2
BUILD_SECONDS = 30.0  # until the build that an operation names is there
LAST_LINES_SECONDS = 2.0  # for lines that are still on their way when the build has ended
_NOTHING = "0"


class Refused(Exception):
    """The push is not taken; says why."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One ref that is pushed. `new` is all zeros for one that is deleted."""

    ref: str
    new: str

    @property
    def deletes(self) -> bool:
        """Whether the ref is to go."""
        return not self.new.strip(_NOTHING)


def updates_in(lines: Iterable[str]) -> list[Update]:
    """What git tells a pre-receive hook on stdin: `old new ref` for each ref."""
    words = (line.rstrip("\n").split(" ", 2) for line in lines if line.strip())
    return [Update(ref=ref, new=new) for _, new, ref in words]


def deployed_of(updates: list[Update]) -> Update | None:
    """The update that is deployed, None where none is. Raises Refused."""
    ours = [update for update in updates if update.ref in BRANCHES]
    if any(update.deletes for update in ours):
        raise Refused(
            "expected a commit for main, found that it is to be deleted; stop the app instead: rayfold ps stop"
        )
    if len(ours) > 1:
        raise Refused("expected main or master, found both: push one of them")
    return ours[0] if ours else None


def say(text: str) -> None:
    """One line to whoever pushes."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def push(update: Update, environ: dict[str, str]) -> None:
    """Deploy a commit and tell how it goes. Raises Refused, CliError."""
    client = ApiClient(Address(url=environ["RAYFOLD_PUSH_URL"], token=environ["RAYFOLD_PUSH_TOKEN"]))
    team, app, component = (environ[f"RAYFOLD_PUSH_{part}"] for part in ("TEAM", "APP", "COMPONENT"))
    digest = _upload(client, team, update.new)
    path = f"/v1/teams/{quote(team)}/apps/{quote(app)}/components/{quote(component)}"
    branch = update.ref.rpartition("/")[2]
    source = {"kind": "upload", "digest": digest, **of_commit(update.new)}
    body = {"source": source, "reason": f"git push of {update.new[:12]} to {branch}"}
    answer = client.send("POST", f"{path}/deploys", body)
    operation = answer.text("operation")
    say(f"-----> Deploying {update.new[:12]} to {team}/{app}/{component} (operation {operation})")
    _follow(client, path, operation, answer.text("position"))


def _upload(client: ApiClient, team: str, commit: str) -> str:
    """Send the commit's tree; its sha256."""
    if _holds(commit, ".gitmodules"):
        say(" !     submodules are not part of a push: to deploy with them, rayfold deploy GIT_URL")
    # In the quarantine of this push: git removes it, whatever happens.
    with tempfile.TemporaryDirectory(dir=os.environ.get("GIT_QUARANTINE_PATH")) as scratch:
        archive = Path(scratch, "source.tar")
        made = subprocess.run(
            ["git", "archive", "--format=tar", f"--output={archive}", commit], capture_output=True, text=True
        )
        if made.returncode != 0:
            raise Refused(f"git could not read {commit[:12]}: {made.stderr.strip()[:500]}")
        with archive.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        target = f"/v1/teams/{quote(team)}/uploads/{digest}"
        if not client.exists(target):
            client.upload(target, archive)
    return digest


def _holds(commit: str, name: str) -> bool:
    return subprocess.run(["git", "cat-file", "-e", f"{commit}:{name}"], capture_output=True).returncode == 0


def _follow(client: ApiClient, path: str, operation: str, position: str) -> None:
    """The build's output as it comes, and how the operation goes on to its end. Raises Refused for no success."""
    deadline = time.monotonic() + DEPLOY_SECONDS
    where = f"/v1/operations/{quote(operation)}"
    view = client.get(where, {"min_position": position})
    # Beside, not before: an operation ends whether or not anybody can read its build's lines.
    output = Thread(target=_tell_output, args=(client.address, path, view.text("build")), daemon=True)
    output.start()
    building = True
    while view.text("status") == "running":
        if building and view.text("phase") not in ("accepted", "building"):
            building = False
            output.join(LAST_LINES_SECONDS)
            say("-----> Starting the new release")
        if time.monotonic() > deadline:
            raise Refused(f"it still goes on; follow it: rayfold operations {operation} --follow")
        time.sleep(POLL_SECONDS)
        view = client.get(where)
    output.join(LAST_LINES_SECONDS if building else 0)
    _tell_end(client, path, view)


def _tell_output(address: Address, path: str, build: str) -> None:
    client = ApiClient(address)
    until = time.monotonic() + BUILD_SECONDS
    try:
        # The operation names its build before that one is asked for.
        while time.monotonic() < until and not client.exists(f"{path}/builds/{quote(build)}", "GET"):
            time.sleep(POLL_SECONDS)
        for sent in Feed(client, f"{path}/builds/{quote(build)}/output", {"follow": True}):
            line = sent.document()
            if line.text("text"):
                say(shown(line.text("text")))
    except CliError as problem:
        say(f" !     the build's output cannot be shown: {problem}")


def _tell_end(client: ApiClient, path: str, view: Document) -> None:
    status = view.text("status")
    if status != "succeeded":
        serving = view.whole("still_serving")
        left = f"v{serving} still serves" if serving else "no release serves"
        word = "was cancelled" if status == "cancelled" else status.replace("_", " ")
        code = f" ({view.text('code')}: docs/build-errors.md)" if view.text("code") else ""
        raise Refused(f"the deploy {word}: {view.text('reason')}{code}\n{left}")
    say(f"-----> v{view.whole('release')} is live")
    for address in client.get(f"{path}/routes").items():
        if url := address.text("url"):
            say(f"       {url}")


def main() -> int:
    """The hook: 0 lets git take the push."""
    try:
        updates = updates_in(sys.stdin)
        update = deployed_of(updates)
        if update is None:
            names = ", ".join(sorted({update.ref.removeprefix("refs/heads/") for update in updates}))
            say(f"stored, and not deployed: {names}. What goes to main is deployed: git push rayfold BRANCH:main")
            return 0
        push(update, dict(os.environ))
    except (Refused, CliError) as problem:
        hint = getattr(problem, "hint", "")
        for line in (*str(problem).splitlines(), *hint.splitlines()):
            say(f" !     {line}")
        say(" !     the push is refused")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
