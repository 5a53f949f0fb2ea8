"""Folding twice in processes of their own, under another hash seed, clock, time zone, locale and environment."""

import ast
import re
from pathlib import Path

import pytest

from events.replay.determinism import Verdict, check
from events.replay.diffing import split_path
from events.replay.errors import CheckFailed, NoSuchStream
from events.replay.export import export
from tests.projections.recorder import WEB, log_of, tell_everything

MODEL = Path(__file__).resolve().parents[3] / "events" / "model"
STREAM = f"component/{WEB}"

IMPURE = """
import os, time, sys
from datetime import date, datetime, timezone
from events.model.registry import aggregate_of

def _then(state, event, at):
    kind = "component" if hasattr(state, "spec") else type(state).__name__.removesuffix("State").lower()
    return aggregate_of(kind + "/x").apply(state, event, at)

def asks_the_world(state, event, at):
    import msgspec
    state = _then(state, event, at)
    if type(event).__name__ != "NodeLost":
        return state
    return msgspec.structs.replace(
        state,
        reason=str(int(time.time()) // 100_000_000),
        name=str(datetime.now(timezone.utc).year),
        address=time.strftime("%H:%M", time.localtime(at // 1_000_000)),
        runtime=",".join({"lost", "gone", "away", "silent", "absent", "missing", "off"}),
    )

CLOCKS = {
    "time": lambda: time.time() // 10**8,
    "time_ns": lambda: time.time_ns() // 10**17,
    "monotonic": lambda: time.monotonic() // 10**8,
    "perf_counter_ns": lambda: time.perf_counter_ns() // 10**17,
    "process_time": lambda: time.process_time() // 10**8,
    "clock_gettime": lambda: time.clock_gettime(time.CLOCK_REALTIME) // 10**8,
    "clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 10**17,
    "gmtime": lambda: time.gmtime().tm_year,
    "gmtime of None": lambda: time.gmtime(None).tm_year,
    "localtime": lambda: time.localtime().tm_year,
    "strftime": lambda: time.strftime("%Y"),
    "ctime": lambda: time.ctime()[-4:],
    "asctime": lambda: time.asctime()[-4:],
    "datetime.now": lambda: datetime.now().year,
    "datetime.today": lambda: datetime.today().year,
    "datetime.utcnow": lambda: datetime.utcnow().year,
    "date.today": lambda: date.today().year,
}
KEPT = {
    "gmtime": lambda: time.gmtime(0).tm_year,
    "strftime": lambda: time.strftime("%Y", time.gmtime(0)),
    "asctime": lambda: time.asctime(time.gmtime(0)),
    "ctime": lambda: time.ctime(0)[-4:],
}

def asks_every_clock(state, event, at):
    import msgspec
    tokens = {f"differs/{name}": str(ask()) for name, ask in CLOCKS.items()}
    tokens |= {f"keeps/{name}": str(ask()) for name, ask in KEPT.items()}
    return msgspec.structs.replace(_then(state, event, at), tokens=tokens)

def asks_the_environment(state, event, at):
    import msgspec
    names = ("HOME", "USER", "PWD", "LANG", "TZ", "FEATURE_OF_THE_TEST")
    tokens = {name: os.environ.get(name, "") for name in names} | {"path": os.environ["PATH"]}
    return msgspec.structs.replace(_then(state, event, at), tokens=tokens)

def by_order(state, event, at):
    import msgspec
    state = _then(state, event, at)
    if type(event).__name__ == "TeamTokenIssued":
        names = {*state.tokens, "aa", "bb", "cc", "dd", "ee", "ff"}
        return msgspec.structs.replace(state, tokens={n: state.tokens.get(n, "x") for n in names})
    return state

def fails(state, event, at):
    raise ValueError("never folds")

def exits(state, event, at):
    print("to nobody")
    os._exit(3)

def exits_well(state, event, at):
    if type(event).__name__.startswith("Team"):
        os._exit(0)
    return _then(state, event, at)

def gives_up(state, event, at):
    sys.exit(0)

def prints(state, event, at):
    print("{}")
    os.write(1, b"{}\\n")
    return _then(state, event, at)
"""
LOUD = "print('while it is imported')\nfrom impure import prints\n"


@pytest.fixture
async def history(tmp_path: Path) -> Path:
    """Everything but the long stories, as a file."""
    short = ["node/node1", "node/node2", "team/default", f"build/{WEB}-op1"]
    (tmp_path / "impure.py").write_text(IMPURE)
    (tmp_path / "loud.py").write_text(LOUD)
    return await write(tmp_path / "history.jsonl", short)


async def write(path: Path, streams: list[str] | None) -> Path:
    log = await log_of(tell_everything())
    path.write_bytes(b"".join([block async for block in export(log, streams, rayfold="test", now=0)]))
    return path


async def verdicts(file: Path, reducer: str = "") -> dict[str, Verdict]:
    found = check(file, reducer=reducer, directory=file.parent)
    return {verdict.stream: verdict async for verdict in found}


async def test_the_aggregates_fold_to_the_same_whatever_runs_them(tmp_path: Path) -> None:
    found = await verdicts(await write(tmp_path / "all.jsonl", None))

    assert {v.stream for v in found.values()} == {record.stream for record in tell_everything()}
    assert all(v.same and not v.error and len(v.sha256) == 64 for v in found.values())
    assert found[STREAM].events == max(r.version for r in tell_everything() if r.stream == STREAM)


async def test_a_fold_that_asks_for_more_than_its_events_is_caught(history: Path) -> None:
    found = await verdicts(history, "impure:asks_the_world")

    lost = found["node/node2"]
    assert (lost.same, lost.version) == (False, 2), "NodeLost is its second event"
    by_zone, by_date, by_clock, by_seed = "address", "name", "reason", "runtime"
    assert [change.path for change in lost.changes] == [by_zone, by_date, by_clock, by_seed]
    assert found["node/node1"].same


async def team_verdict(history: Path, reducer: str) -> Verdict:
    [found] = [v async for v in check(history, only=["team/default"], reducer=reducer, directory=history.parent)]
    return found


async def test_every_way_to_ask_for_the_time_tells_another_one(history: Path) -> None:
    found = await team_verdict(history, "impure:asks_every_clock")

    asked = set(re.findall(r'^    "([^"]+)": lambda', IMPURE.partition("KEPT")[0], re.MULTILINE))
    assert {split_path(change.path) for change in found.changes} == {("tokens", f"differs/{name}") for name in asked}
    years = {
        str(change.before): str(change.after) for change in found.changes if re.fullmatch(r"\d{4}", str(change.before))
    }
    assert {int(after) - int(before) for before, after in years.items()} <= {19, 20}, "none of them is shifted twice"


async def test_what_is_read_from_the_environment_shows(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURE_OF_THE_TEST", "on")

    found = await team_verdict(history, "impure:asks_the_environment")

    differ = {change.path.removeprefix("tokens.") for change in found.changes}
    assert differ == {"HOME", "USER", "PWD", "LANG", "TZ", "FEATURE_OF_THE_TEST"}


async def test_a_map_in_another_order_is_caught_too(history: Path) -> None:
    team = (await verdicts(history, "impure:by_order"))["team/default"]

    assert (team.same, team.version) == (False, 2)
    assert [(change.path, change.kind) for change in team.changes] == [("tokens", "reordered")]


async def test_a_fold_that_fails_the_same_way_twice_is_told_as_failing(history: Path) -> None:
    found = await verdicts(history, "impure:fails")

    assert {(v.same, v.version, v.error) for v in found.values()} == {(True, 0, "ValueError: never folds")}
    assert all(v.events == 1 for v in found.values())


async def test_a_process_that_ends_badly_is_no_verdict(history: Path) -> None:
    with pytest.raises(CheckFailed, match="failed with exit code 3: to nobody"):
        await verdicts(history, "impure:exits")
    with pytest.raises(CheckFailed, match="cannot import"):
        await verdicts(history, "no_such_module:apply")


async def test_a_process_that_ends_well_but_says_nothing_of_a_stream_is_no_verdict_either(history: Path) -> None:
    found = []
    with pytest.raises(CheckFailed, match="ended without a verdict on team/default"):
        async for verdict in check(history, reducer="impure:exits_well", directory=history.parent):
            found.append(verdict.stream)

    assert found == [f"build/{WEB}-op1", "node/node1", "node/node2"], "those before it were folded"


async def test_an_apply_that_asks_to_exit_is_told_as_failing(history: Path) -> None:
    found = await verdicts(history, "impure:gives_up")

    assert {v.error for v in found.values()} == {"SystemExit: 0"}


async def test_only_the_streams_asked_for_are_folded_and_each_must_be_there(history: Path) -> None:
    some = check(history, only=["node/node1"], directory=history.parent)
    assert [verdict.stream async for verdict in some] == ["node/node1"]

    with pytest.raises(NoSuchStream, match="team/nobody"):
        _ = [verdict async for verdict in check(history, only=["node/node1", "team/nobody"])]


async def test_what_an_apply_prints_does_not_stand_among_the_verdicts(history: Path) -> None:
    assert all(v.same and not v.error for v in (await verdicts(history, "loud:prints")).values())


_FORBIDDEN = {"time", "random", "os", "secrets", "uuid", "socket", "locale", "pathlib", "subprocess", "asyncio"}

_ASKING = {"open", "hash", "input", "eval", "exec"}


# It hashes the sources of the others, and no fold asks it.
_NO_REDUCER = {"fold_fingerprint.py"}


@pytest.mark.parametrize(
    "module", sorted(m for m in MODEL.glob("*.py") if m.name not in _NO_REDUCER), ids=lambda path: path.name
)
def test_no_aggregate_can_ask_the_world(module: Path) -> None:
    """No clock, no chance, no environment, no file: neither imported nor called."""
    tree = ast.parse(module.read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assert not imported & _FORBIDDEN
    assert not {f.attr for f in called if isinstance(f, ast.Attribute)} & {"now", "today", "utcnow", "getenv"}
    assert not ({f.id for f in called if isinstance(f, ast.Name)} - own) & _ASKING
