"""Tells git the user and password of one URL, and of no other: the credential helper that our git configuration names.

Executed by git as a script (`FILE get`, the question on stdin), so it imports the standard library only. What git asks
for after a redirect, for a proxy or for a submodule is another URL, and gets no answer.
"""

import json
import sys
from pathlib import Path


def main(file: str, action: str) -> int:
    """`file`: JSON of protocol, host, path, username and password. Keeps and forgets nothing that git tells."""
    if action != "get":
        return 0
    asked = dict(line.rstrip("\n").split("=", 1) for line in sys.stdin if "=" in line)
    kept: dict[str, str] = json.loads(Path(file).read_text())
    if all(asked.get(part, "").strip("/") == kept[part] for part in ("protocol", "host", "path")):
        sys.stdout.write(f"username={kept['username']}\npassword={kept['password']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
