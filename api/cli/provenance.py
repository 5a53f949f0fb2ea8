"""Which commit, and whose, an upload is made of, as git tells it here.

It is what this machine says: the platform notes it beside the upload and cannot check it.
"""

import os
import subprocess
from pathlib import Path

DIRTY = "-dirty"
_GIT_SECONDS = 30
_LONGEST_AUTHOR = 200


def of_commit(commit: str, directory: Path | None = None) -> dict[str, str]:
    """`commit` in full and `author` (`Name <mail>`) of a commit; empty where git knows none such."""
    lines = _git(["log", "-1", "--format=%H%n%an <%ae>", commit, "--"], directory).splitlines()
    if len(lines) < 2:
        return {}
    author = "".join(letter for letter in lines[1] if letter.isprintable())[:_LONGEST_AUTHOR].strip()
    return {"commit": lines[0], "author": author}


def of_directory(directory: Path) -> dict[str, str]:
    """As `of_commit` of what is checked out, `-dirty` behind the commit when files below `directory` differ from it.

    Empty when it is in no repository, or nothing of it was ever committed: a repository around it is not its own.
    """
    if not _git(["ls-tree", "--name-only", "HEAD", "--", "."], directory):
        return {}
    found = of_commit("HEAD", directory)
    if found and _git(["status", "--porcelain", "--untracked-files=normal", "--", "."], directory):
        found["commit"] += DIRTY
    return found


def _git(arguments: list[str], directory: Path | None) -> str:
    """What git says; nothing when it is absent, slow or fails: a deploy never depends on it."""
    command = ["git", "-c", "core.fsmonitor=false", "-c", "log.showSignature=false", *arguments]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, timeout=_GIT_SECONDS, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
