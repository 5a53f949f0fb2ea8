"""Whether folding depends on anything but the events: the same history folded in two processes that differ in hash
seed, clock, time zone, locale and environment must give the same states.

Knows how to run the two and to find where they part; what a fold is, is `folding`'s business.
"""

import asyncio
import contextlib
import os
import site
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec

from events.replay.diffing import Change, Plain, diff
from events.replay.errors import CheckFailed, NoSuchStream
from events.replay.folding import Folded
from events.replay.imported import read_header

YEARS_LATER_S = 20 * 365 * 86400
FOLD_SECONDS = 600.0
_LINE_BYTES = 64 * 1024 * 1024  # a state as one line
_TAIL_BYTES = 64 * 1024
_ERROR_CHARACTERS = 600

_COMMON = ("PATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""Without these a process may find neither its Python nor its libraries."""
_PERSONAL = ("HOME", "PWD", "OLDPWD", "USER", "LOGNAME", "USERNAME", "HOSTNAME", "SHELL", "TERM", "EDITOR", "PAGER",
             "RAYFOLD_CHECK")  # fmt: skip
"""What any environment may have, and another person's has otherwise."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What a fold runs under. `zone`: as TZ takes it, needing no zone files; `shift`: seconds the clock is wrong.

    `name`: what HOME, USER and their like say; `inherits`: it has the other variables of this process too.
    """

    name: str
    seed: str
    zone: str
    locale: str
    shift: int
    inherits: bool


HERE = World(name="here", seed="0", zone="UTC0", locale="C", shift=0, inherits=True)
ELSEWHERE = World(
    name="elsewhere", seed="4242", zone="ELSE-13:45", locale="tr_TR.UTF-8", shift=YEARS_LATER_S, inherits=False
)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that was folded twice. `same` and, if not: the `version` of the first event after which the two states
    differ, and what differs. `sha256`: of the state (of the first of the two); `error`: why it cannot be folded."""

    stream: str
    events: int
    same: bool
    sha256: str
    version: int = 0
    changes: Sequence[Change] = ()
    error: str = ""


async def check(
    file: Path,
    *,
    only: Sequence[str] = (),
    reducer: str = "",
    directory: Path | None = None,
    worlds: tuple[World, World] = (HERE, ELSEWHERE),
) -> AsyncIterator[Verdict]:
    """Fold every stream of an exported file, or `only` some, twice, in fresh processes at the same time; a
    verdict each, by name.

    `reducer`: `module:function` in `directory` in place of the aggregates' own `apply`. Raises CheckFailed when a
    process ends badly, does not end or says nothing of a stream, BadHistoryFile, and NoSuchStream for one that the
    file does not hold.
    """
    streams = await _streams(file, only)
    arguments = [str(file), "--reducer", reducer, "--directory", str(directory or Path.cwd())]
    chosen = [part for stream in only for part in ("--only", stream)]
    first, second = (_run(world, [*arguments, *chosen]) for world in worlds)
    async with contextlib.aclosing(first), contextlib.aclosing(second):  # type: ignore[type-var]
        for stream in streams:
            one, other = await _verdict_on(stream, first), await _verdict_on(stream, second)
            same = (one.version, one.sha256, one.error) == (other.version, other.sha256, other.error)
            verdict = Verdict(
                stream=one.stream, events=one.version, same=same, sha256=one.sha256, error=one.error if same else ""
            )
            yield verdict if same else await _parted(verdict, arguments, worlds)
        for told in (first, second):
            # Read to its end as well: how a process ended is known only then.
            if (more := await anext(told, None)) is not None:
                raise CheckFailed(f"expected one verdict on each stream, found another on {more.stream}")


async def _streams(file: Path, only: Sequence[str]) -> list[str]:
    """Those asked for, in the order of the file, which is that of the folds."""
    held = [line.stream for line in (await asyncio.to_thread(read_header, file)).streams]
    if missing := sorted(set(only) - set(held)):
        raise NoSuchStream(f"expected events of {missing[0]}, found none")
    return [stream for stream in held if not only or stream in only]


async def _verdict_on(stream: str, told: AsyncIterator[Folded]) -> Folded:
    found = await anext(told, None)
    if found is None or found.stream != stream:
        raise CheckFailed(
            f"the fold ended without a verdict on {stream}; an apply must return a state and not end its process"
        )
    return found


async def _parted(verdict: Verdict, arguments: Sequence[str], worlds: tuple[World, World]) -> Verdict:
    """The verdict with the first event after which the two differ."""
    each = [*arguments, "--each", verdict.stream]
    version = 0
    ways = [_run(world, each) for world in worlds]
    async with contextlib.aclosing(ways[0]), contextlib.aclosing(ways[1]):  # type: ignore[type-var]
        async for one in ways[0]:
            other = await anext(ways[1], None)
            version = one.version
            if other is None or (one.sha256, one.error) != (other.sha256, other.error):
                break
    sides = [await _state(world, [*each, "--state", str(version)]) for world in worlds]
    before, after = (msgspec.json.decode(side.state) for side in sides)
    changes = diff(before, after) or _reordered("", before, after)
    errors = [side.error for side in sides if side.error]
    return msgspec.structs.replace(verdict, version=version, changes=changes, error="; ".join(errors))


async def _state(world: World, arguments: Sequence[str]) -> Folded:
    async with contextlib.aclosing(_run(world, arguments)) as told:  # type: ignore[type-var]
        async for one in told:
            return one
    raise CheckFailed("expected a fold to tell a state, found that it told none")


def _reordered(path: str, before: Plain, after: Plain) -> list[Change]:
    """Maps with the same content in another order, which `diff` does not see."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        if list(before) != list(after):
            return [Change(path=path, kind="reordered", before=list(before), after=list(after))]
        steps = [(key, before[key], after[key]) for key in before]
    elif isinstance(before, list) and isinstance(after, list):
        steps = [(str(i), one, other) for i, (one, other) in enumerate(zip(before, after, strict=True))]
    else:
        return []
    return [change for key, one, other in steps for change in _reordered(f"{path}.{key}".strip("."), one, other)]


async def _tail(said: asyncio.StreamReader) -> bytes:
    """The end of what a process says, however much that is."""
    end = b""
    while piece := await said.read(_TAIL_BYTES):
        end = (end + piece)[-_TAIL_BYTES:]
    return end


def _environment(world: World) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_"))}
    kept = own if world.inherits else {name: own[name] for name in _COMMON if name in own}
    return {
        **kept,
        **dict.fromkeys(_PERSONAL, f"/{world.name}"),
        "TZ": world.zone,
        "LC_ALL": world.locale,
        "LANG": world.locale,
        "PYTHONHASHSEED": world.seed,
        "PYTHONUTF8": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONUSERBASE": site.getuserbase(),  # which HOME would say otherwise
    }


async def _run(world: World, arguments: Sequence[str]) -> AsyncIterator[Folded]:
    command = [sys.executable, "-m", "events.replay.fold_once", *arguments, "--shift", str(world.shift)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(world),
        limit=_LINE_BYTES,
    )
    assert process.stdout is not None and process.stderr is not None  # noqa: S101 -- both were asked for
    complaint = asyncio.ensure_future(_tail(process.stderr))
    try:
        async with asyncio.timeout(FOLD_SECONDS):
            async for line in process.stdout:
                yield msgspec.json.decode(line, type=Folded)
            if await process.wait() != 0:
                said = "".join((await complaint).decode(errors="replace").strip().splitlines()[-1:])
                ended = f"a fold in a process of its own failed with exit code {process.returncode}"
                raise CheckFailed(f"{ended}: {said[:_ERROR_CHARACTERS]}" if said else ended)
    except TimeoutError:
        raise CheckFailed(f"expected a fold to end within {FOLD_SECONDS:.0f} s; check fewer streams") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        complaint.cancel()
