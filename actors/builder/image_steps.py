"""Finds and ends the steps of Dockerfiles whose build is over: an engine may let a step run on when its client is gone.

Each step's processes bear a mark in a variable that engines hand to every step and keep out of images and cache keys.
Knows /proc and nothing of engines. Where the engine is on another machine, or steps run as users whose environment the
platform may not read, a step runs on to its own end.
"""

import hashlib
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

VARIABLE = "NO_PROXY"
_SUFFIX = "rayfold-build.invalid"  # no host can have this name (RFC 6761), so nothing is kept from a proxy by it
_HOME_DIGITS = 8


def mark(home: str, build_id: str) -> str:
    """The value of VARIABLE that marks a build of the platform at `home`."""
    inherited = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "localhost,127.0.0.1"
    return f"{inherited},{build_id}.{_home(home)}.{_SUFFIX}"


def end_steps(home: str, is_over: Callable[[str], bool]) -> int:
    """Kill every process of a step of this platform whose build `is_over`; how many they were. Blocking."""
    pattern = re.compile(
        rb"[=,]([A-Za-z0-9_-]+)\.%s\.%s(?:\0|\Z)" % (_home(home).encode(), re.escape(_SUFFIX).encode())
    )
    ended = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found = pattern.search((entry / "environ").read_bytes())
        except OSError:
            continue
        if found and is_over(found[1].decode()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                ended += 1
    return ended


def _home(home: str) -> str:
    return hashlib.blake2b(home.encode(), digest_size=_HOME_DIGITS // 2).hexdigest()
