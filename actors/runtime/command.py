"""Turns a Procfile line and an instance's settings into what the sandbox's shell runs, with which environment.

Pure text: knows nothing of files or processes.
"""

import os
import re
from collections.abc import Mapping

_ASSIGNMENTS = re.compile(r"""(?:[A-Za-z_]\w*=(?:[^\s"'\\]|"[^"]*"|'[^']*')*\s+)*""", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_COMPOUND = re.compile(r"[;&|()\n`{}]")
_SHELL_WORDS = frozenset(
    """
    . : [ ! alias break case cd command continue echo eval exec exit export false fg for if jobs local printf pwd read
    readonly return set shift source test times trap true type ulimit umask unset until wait while
    """.split()  # noqa: SIM905 -- forty pairs of quotes otherwise
)
_PATH_DEFAULT = "/usr/local/bin:/usr/bin:/bin"
_LANG_DEFAULT = "C.UTF-8"


def shell_line(command: str) -> str:
    """`command` for `/bin/sh -c`, with `exec` where it is one simple command, so that the command is the main process.

    Then its exit code and signals are its own, and no shell stands between. A compound line (`cd web && npm start`) or
    a shell builtin is left as it is: `exec` would change what it means.
    """
    command = command.strip()
    assignments = _ASSIGNMENTS.match(command)
    split = assignments.end() if assignments else 0
    rest = command[split:]
    first = rest.split(maxsplit=1)[0] if rest else ""
    if not first or first in _SHELL_WORDS or _ASSIGNMENT.match(first) or _COMPOUND.search(rest):
        return command
    return f"{command[:split]}exec {rest}"


def environment(
    given: Mapping[str, str], *, instance_id: str, home: str, temporary: str, port: int | None
) -> dict[str, str]:
    """What the command sees: PATH and LANG from the platform, the given settings, then what it may not change."""
    # RAYFOLD_HOME marks the instance's processes (shim/child.py), even where the application changes its HOME.
    fixed = {"HOME": home, "TMPDIR": temporary, "RAYFOLD_INSTANCE": instance_id, "RAYFOLD_HOME": home}
    if port is not None:
        fixed["PORT"] = str(port)
    inherited = {"PATH": os.environ.get("PATH", _PATH_DEFAULT), "LANG": os.environ.get("LANG", _LANG_DEFAULT)}
    return {**inherited, **given, **fixed}
