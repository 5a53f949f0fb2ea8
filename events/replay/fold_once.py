"""One fold of an exported file in a process of its own: `python -m events.replay.fold_once FILE …`, for `determinism`.

Prints JSON Lines: each stream's hash, or with `--each STREAM` the hash after each of its events, or with `--state N`
its state then. Changes the clock before any aggregate is imported; must not be imported by anything.
"""

import argparse
import datetime as datetime_module
import locale
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, TypeVar

Told = TypeVar("Told")


def main() -> None:
    """Read the command line and fold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--shift", type=int, default=0, help="seconds by which every clock is wrong")
    parser.add_argument("--reducer", default="", help="module:function instead of the aggregate's own apply")
    parser.add_argument("--directory", type=Path, default=Path(), help="where that module is looked for")
    parser.add_argument("--only", action="append", default=[], help="a stream; all of the file without")
    parser.add_argument("--each", default="", help="a stream: a line for each of its events")
    parser.add_argument("--state", type=int, default=-1, help="with --each: only the state after so many events")
    given = parser.parse_args()
    answers = _own_stdout()
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        pass  # a machine without that locale still has the other differences
    if given.shift:
        shift_clock(given.shift)
    # Only now: whatever an aggregate takes from `time` or `datetime` as it is imported must be the shifted one.
    from events.replay.errors import ReplayError
    from events.replay.folding import print_folds

    try:
        print_folds(
            given.file,
            to=answers,
            reducer=given.reducer,
            directory=given.directory,
            only=given.only,
            each=given.each,
            state_at=given.state,
        )
    except ReplayError as error:
        sys.exit(str(error))


def _own_stdout() -> TextIO:
    """Stdout for the answers alone: whatever else is printed from now on, in whatever way, goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr
    return answers


def shift_clock(seconds: int) -> None:
    """Set `time` and `datetime` of this process wrong by so many seconds."""
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime"):
        setattr(time, name, _later(getattr(time, name), seconds))
        setattr(time, f"{name}_ns", _later(getattr(time, f"{name}_ns"), seconds * 1_000_000_000))
    # These ask for the time themselves, past `time.time`, when they are given none.
    now, local = time.time, time.localtime
    time.gmtime = _at(time.gmtime, now)
    time.localtime = _at(local, now)
    time.ctime = _at(time.ctime, now)
    time.asctime = _at(time.asctime, time.localtime)
    formatted = time.strftime
    time.strftime = lambda wanted, t=None: formatted(wanted, local(now()) if t is None else t)
    real = datetime_module.datetime
    span = datetime_module.timedelta(seconds=seconds)

    class Shifted(real):  # type: ignore[misc,valid-type]
        """`datetime` with another present."""

        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> datetime_module.datetime:
            return real.now(tz) + span

        @classmethod
        def today(cls) -> datetime_module.datetime:
            return real.now() + span

        @classmethod
        def utcnow(cls) -> datetime_module.datetime:
            return real.now(datetime_module.UTC).replace(tzinfo=None) + span

    datetime_module.datetime = Shifted  # type: ignore[misc]


def _later(clock: Callable[..., float], amount: float) -> Callable[..., float]:
    return lambda *which: clock(*which) + amount


def _at(told: Callable[..., Told], present: Callable[[], object]) -> Callable[..., Told]:
    return lambda moment=None: told(present() if moment is None else moment)


if __name__ == "__main__":
    main()
