"""Named failpoints in production code: free when off, a crash, an error or a pause when a test arms them.

Arm with the environment variable `RAYFOLD_FAILPOINTS`, a comma-separated list of `name=action`, where action is `exit`
(the process dies at once, as by kill -9), `error` (raises `FailpointError`), `once-error` (the same, the first time in
this process only), or `once-exit:PATH` (dies the first time only: PATH is created as the mark that it has happened).
A test may arm a function instead, which then runs at that very line. Knows nothing of what the names mean.
"""

import os
from collections.abc import Callable
from pathlib import Path


class FailpointError(Exception):
    """Raised by a failpoint armed with `error`."""


def _parse(text: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in text.split(",") if item.strip())
    return {name.strip(): action.strip() for name, _, action in pairs}


_armed: dict[str, str | Callable[[], None]] = {}
_armed |= _parse(os.environ.get("RAYFOLD_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Do what `name` is armed for; nothing when it is not armed."""
    if _armed:
        _fire(name)


def arm(name: str, action: str | Callable[[], None]) -> None:
    """Arm `name` in this process (tests)."""
    _armed[name] = action


def armed() -> list[str]:
    """The names that are armed in this process (tests)."""
    return sorted(_armed)


def disarm(name: str) -> None:
    """Disarm `name` in this process (tests)."""
    _armed.pop(name, None)


def _fire(name: str) -> None:
    action = _armed.get(name)
    if action is None:
        return
    if callable(action):
        action()
        return
    if action == "error":
        raise FailpointError(f"failpoint {name} is armed with error")
    if action == "once-error":
        disarm(name)
        raise FailpointError(f"failpoint {name} is armed with once-error")
    if action == "exit":
        os._exit(137)
    if action.startswith("once-exit:"):
        mark = Path(action.removeprefix("once-exit:"))
        if not mark.exists():
            mark.touch()
            os._exit(137)
        return
    raise ValueError(f"failpoint {name}: expected error, once-error, exit or once-exit:PATH, found {action!r}")
