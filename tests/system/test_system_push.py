"""`git push` with a real git: set up by the command line, built, shown while it goes, refused where broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.platform import ROOT, Platform

pytestmark = [pytest.mark.system, pytest.mark.servers]

GIT_SECONDS = 180
WHO = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.org",
}  # fmt: skip


def _git(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAYFOLD_")}
    env = {
        **kept,
        **WHO,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(["git", *arguments], cwd=place, env=env, capture_output=True, text=True, timeout=GIT_SECONDS)


def _commit(place: Path, files: apps.Files) -> str:
    for name, text in files.items():
        (place / name).write_text(text)
    assert _git(place, "add", "-A").returncode == 0
    assert _git(place, "commit", "-q", "-m", "a change").returncode == 0
    return _git(place, "rev-parse", "HEAD").stdout.strip()


def test_a_push_is_built_shown_and_served_and_a_broken_one_is_refused(platform: Platform, tmp_path: Path) -> None:
    place = tmp_path / "pushed"
    place.mkdir()
    assert _git(place, "init", "-q", "-b", "main").returncode == 0
    first = _commit(place, apps.web("one"))
    remote = platform.cli("git", "remote", "--app", "pushed", cwd=place)
    assert remote.json["url"].endswith("/git/default/pushed/web.git")
    assert platform.token not in (place / ".git/config").read_text(), "the token stays where it is"

    done = _git(place, "push", "rayfold", "main")
    assert done.returncode == 0, done.stderr
    for line in ("-----> Fetching the source", "-----> Storing the artifact", "-----> v1 is live", "pushed.localhost"):
        assert f"remote: {line}" in done.stderr or f"remote:        http://{line}" in done.stderr, done.stderr
    assert platform.serving("pushed")["text"] == "one"

    _commit(place, apps.broken_build())
    broken = _git(place, "push", "rayfold", "main")
    assert broken.returncode != 0
    assert "pre-receive hook declined" in broken.stderr and "requirements" in broken.stderr, broken.stderr
    assert "v1 still serves" in broken.stderr
    assert first in _git(place, "ls-remote", "rayfold", "refs/heads/main").stdout
    assert platform.serving("pushed")["text"] == "one"

    third = _commit(place, {**apps.web("three"), "requirements.txt": ""})
    assert _git(place, "push", "rayfold", "main").returncode == 0
    assert third in _git(place, "ls-remote", "rayfold", "refs/heads/main").stdout
    assert platform.serving("pushed")["text"] == "three"
    helper = [sys.executable, "-m", "api.cli", "git", "credential", "get", "--data", str(platform.data)]
    asked = subprocess.run(
        helper, input="protocol=http\nhost=elsewhere.example.org\n\n", capture_output=True, text=True, cwd=ROOT
    )
    assert asked.returncode == 0 and asked.stdout == "", "another host is told nothing"
    platform.ended(platform.http("DELETE", "/v1/teams/default/apps/pushed").json["operation"])
