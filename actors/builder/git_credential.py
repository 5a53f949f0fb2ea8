"""Tells git the user and password of URLs below one prefix, and of no other: the credential helper that our git
configuration names.

Executed by git as a script (`FILE get`, the question on stdin), so it imports the standard library only. What git asks
for after a redirect, for a proxy or for a submodule may be a URL elsewhere, and then gets no answer.
"""

import json
import sys
from pathlib import Path
from typing import TypedDict


class Kept(TypedDict):
    """What FILE holds. `path`: the directories of the prefix, without a `.git` at the end."""

    protocol: str
    host: str
    path: list[str]
    username: str
    password: str


def main(file: str, action: str) -> int:
    """Keeps and forgets nothing that git tells (`store`, `erase`)."""
    if action != "get":
        return 0
    asked = dict(line.rstrip("\n").split("=", 1) for line in sys.stdin if "=" in line)
    kept: Kept = json.loads(Path(file).read_text())
    same = (asked.get("protocol"), asked.get("host")) == (kept["protocol"], kept["host"])
    if same and _lies_below(asked.get("path", ""), kept["path"]):
        sys.stdout.write(f"username={kept['username']}\npassword={kept['password']}\n")
    return 0


def _lies_below(path: str, prefix: list[str]) -> bool:
    """As `events.model.team_credentials` has it, which a script does not import."""
    steps = [step for step in path.split("/") if step]
    if any(step in (".", "..") or "\\" in step or "%" in step for step in steps):
        return False
    if steps:
        steps[-1] = steps[-1].removesuffix(".git")
    return steps[: len(prefix)] == prefix


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
