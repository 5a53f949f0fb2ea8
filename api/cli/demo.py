"""`python -m api.cli.demo [--once]`: the whole way from a git repository to a replayed past, on this machine.

Uses only what users have: the command line, git and HTTP through the gateway. Any surprise ends it with the reason.
"""

import argparse
import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.cli.document import Document
from api.cli.output import duration, styled
from api.cli.safe import visible

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "hello-python"
APP = "hello"
OLD_TEXT, NEW_TEXT, CONFIGURED = "Hello from Rayfold", "Hello again, from the second commit", "Hello from a variable"
COMMAND_SECONDS = 600
ANSWER_SECONDS = 15.0
POLL_SECONDS = 0.2


class Surprise(Exception):
    """Something was not as it should be; the message says what was expected and what was found."""


class Demo:
    """One run, against the platform of `data`."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.repository = data / "demo-source" / "hello-python"
        self.url = ""
        self.first = Document()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what is being done, and how long it took."""
        print(f"{styled('▸', 'name')} {what}", flush=True)
        began = time.monotonic()
        yield
        print(f"  {styled(f'done in {duration(time.monotonic() - began)}', 'dim')}", flush=True)

    def rayfold(self, *arguments: str) -> Document:
        """Run a command with --json; its answer. Raises Surprise when it fails."""
        print(f"  {styled('$ rayfold ' + shlex.join(arguments), 'bold')}", flush=True)
        command = [sys.executable, "-m", "api.cli", *arguments, "--data", str(self.data), "--json"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAYFOLD_")}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Surprise(
                f"expected `rayfold {arguments[0]}` to end within {COMMAND_SECONDS} s, it did not"
            ) from error
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            raise Surprise(
                f"expected `rayfold {' '.join(arguments)}` to exit 0, found {done.returncode}: {text[-2000:]}"
            )
        return _document(text)

    def git(self, *arguments: str) -> None:
        """Run git in the demo's repository."""
        who = ["-c", "user.name=Rayfold demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.repository, capture_output=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise Surprise(f"git {arguments[0]} failed: {done.stderr.decode('utf-8', 'replace')[-1000:]}")

    def start(self) -> None:
        """Start the platform on free ports."""
        with self.step("start the platform: etcd, Ray, Envoy and the actors, as processes of this user"):
            self.rayfold("up", "--detach", "--api-port", "0", "--gateway-port", "0")

    def make_repository(self) -> None:
        """A fresh git repository with the example in it."""
        with self.step(f"make a git repository from examples/{EXAMPLE.name}"):
            shutil.rmtree(self.repository, ignore_errors=True)
            self.repository.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(EXAMPLE, self.repository, ignore=shutil.ignore_patterns("__pycache__", ".venv"))
            self.git("init", "--quiet", "--initial-branch", "main")
            self.commit("Say hello")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def deploy(self, why: str) -> Document:
        """Deploy the repository from its URL; the operation as JSON."""
        found = self.rayfold("deploy", self.repository.as_uri(), "--app", APP, "-m", why)
        if not found.whole("release") or not found.words("urls"):
            raise Surprise(f"expected a release and its URL, found {json.dumps(found.raw)[:1000]}")
        self.url = found.words("urls")[0]
        print(f"  v{found.whole('release')} at {self.url}")
        return found

    def expect_answer(self, text: str) -> None:
        """Request the app through the gateway; raises Surprise unless it says `text`."""
        status, body = _request(self.url)
        if status != 200 or text not in body:
            raise Surprise(f"expected {text!r} from {self.url}, found status {status}: {body[:300]!r}")
        print(f"  GET {self.url} → {status} {visible(body.strip())}")

    def first_deploy(self) -> None:
        """Git URL in, URL out."""
        with self.step("deploy it from its git URL"):
            self.first = self.deploy("the demo's first deploy")
        with self.step("request it through the gateway"):
            self.expect_answer(OLD_TEXT)

    def show_logs(self) -> None:
        """The request just made must be in the log."""
        with self.step("show its log"):
            lines = _until(lambda: self._log_lines("GET /"), "the request in the app's log")
            for line in lines[-3:]:
                print(f"  {line.text('at')} {visible(line.text('text'))}")

    def _log_lines(self, text: str) -> list[Document]:
        found = self.rayfold("logs", "-n", "50", "--app", APP, "--source", "app")
        return [line for line in found.items() if text in line.text("text")]

    def change(self) -> None:
        """A second commit, deployed."""
        with self.step("change the code, commit, deploy again: the old release serves until the new one is ready"):
            source = self.repository / "app.py"
            text = source.read_text(encoding="utf-8")
            if OLD_TEXT not in text:
                raise Surprise(f"expected {OLD_TEXT!r} in {source}, found none")
            source.write_text(text.replace(OLD_TEXT, NEW_TEXT), encoding="utf-8")
            self.commit("Greet again")
            self.deploy("the demo's second commit")
            self.expect_answer(NEW_TEXT)

    def configure(self) -> None:
        """A configuration variable, which is a release as well."""
        with self.step("set a configuration variable: the same code, a new release"):
            self.rayfold("config", "set", f"MESSAGE={CONFIGURED}", "--app", APP, "-m", "try a variable")
            self.expect_answer(CONFIGURED)

    def roll_back(self) -> None:
        """Back to the first release: code and configuration."""
        with self.step("roll back to the first release, configuration included"):
            self.rayfold("rollback", f"v{self.first.whole('release')}", "--app", APP, "-m", "the first was best")
            self.expect_answer(OLD_TEXT)
            left = self.rayfold("config", "--app", APP).pairs("config")
            if "MESSAGE" in left:
                raise Surprise(f"expected no variable MESSAGE after the rollback, found {left['MESSAGE']!r}")

    def replay(self) -> None:
        """The component as it was when the first release had just gone live, and what changed since."""
        with self.step("replay: the component as it was right after the first deploy, and what changed since"):
            offset = self.first.text("position").partition(":")[2]
            if not offset.isdecimal():
                raise Surprise(
                    f"expected the position of the first deploy's end, found {json.dumps(self.first.raw)[:500]}"
                )
            then = self.rayfold("replay", APP, "--offset", offset)
            current, release = then.inner("state").whole("current"), self.first.whole("release")
            if current != release:
                raise Surprise(f"expected the replayed state to serve v{release}, found v{current}")
            print(f"  at version {then.whole('version')} ({then.text('position')}) it served v{current}")
            changed = self.rayfold("diff", APP, f"v{then.whole('version')}").items("changes")
            if not changed:
                raise Surprise("expected differences between then and now, found none")
            for change in changed[:5]:
                before, after = (json.dumps(change.raw.get(side))[:60] for side in ("before", "after"))
                print(f"  {visible(change.text('path'))}: {before} → {after}")
            print(f"  … {len(changed)} differences in all")

    def all_steps(self) -> None:
        """Everything, in order."""
        self.start()
        self.make_repository()
        self.first_deploy()
        self.show_logs()
        self.change()
        self.configure()
        self.roll_back()
        self.replay()

    def stop(self) -> None:
        """Stop the platform with its applications."""
        with self.step("stop everything"):
            self.rayfold("down")

    def farewell(self) -> None:
        """What runs where, and what to try."""
        status = self.rayfold("status")
        rayfold = f".venv/bin/rayfold --data {os.path.relpath(self.data)}"
        print(f"\nthe app      {self.url}\nthe API      {status.text('url')}/openapi.json\n\ntry next:")
        for rest in (f"ps scale web=3 --app {APP}", f"logs -f --app {APP}", "events -f", f"replay {APP} --step",
                     "deploy PATH_OR_GIT_URL", "down"):  # fmt: skip
            print(f"  {rayfold} {rest}")


def _document(text: str) -> Document:
    """One JSON object, a JSON list, or lines of JSON objects (as `items`)."""
    try:
        value = json.loads(text or "{}")
        return Document({"items": value} if isinstance(value, list) else value)
    except ValueError:
        pass
    try:
        return Document({"items": [json.loads(line) for line in text.splitlines() if line.strip()]})
    except ValueError as error:
        raise Surprise(f"expected JSON, found {text[:500]!r}") from error


def _request(url: str) -> tuple[int, str]:
    # Not every resolver knows *.localhost, so the name goes into the Host header only.
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path or "/", headers={"Host": parts.netloc, "User-Agent": "rayfold-demo"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise Surprise(f"expected an answer from {url}, found: {error}") from error
    finally:
        connection.close()


def _until(look: Callable[[], list[Document]], what: str) -> list[Document]:
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Surprise(f"expected {what} within {ANSWER_SECONDS:.0f} s, found none")
        time.sleep(POLL_SECONDS)


def main() -> int:
    """Run the demo; 0 when everything was as it should be."""
    parser = argparse.ArgumentParser(prog="python -m api.cli.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop everything at the end and leave nothing behind")
    once = parser.parse_args().once
    data = Path(tempfile.mkdtemp(prefix="rayfold-demo-")) if once else (Path.cwd() / ".rayfold" / "demo")
    data.mkdir(parents=True, exist_ok=True)
    demo, began = Demo(data), time.monotonic()
    code = _tried(demo.all_steps)
    if once:  # whatever happened, nothing goes on running
        stopped = _tried(demo.stop)
        code = code or stopped
    elif code == 0:
        code = _tried(demo.farewell)
    if once and code == 0:
        shutil.rmtree(data, ignore_errors=True)
    elif code:
        print(f"what the platform said is kept in {data}/platform", file=sys.stderr)
    word = f"{styled('✓', 'good')} everything as it should be" if code == 0 else f"{styled('✗', 'bad')} ended early"
    print(f"{word}, {duration(time.monotonic() - began)}")
    return code


def _tried(part: Callable[[], None]) -> int:
    try:
        part()
    except Surprise as surprise:
        print(f"{styled('✗', 'bad', sys.stderr)} {surprise}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
