"""The debugger offline: everything works on an exported file alone, with no platform anywhere."""

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from api.cli.main import main
from events.replay.export import export
from tests.api.cli.conftest import ContractServer
from tests.projections.recorder import WEB, log_of, tell_everything

ROOT = Path(__file__).resolve().parents[3]
STREAM = f"component/{WEB}"
LAST = 220  # of the component's events: its whole first life and the beginning of its second
RECORDS = [record for record in tell_everything() if record.stream != STREAM or record.version <= LAST]
SETTINGS = next(r.version for r in RECORDS if r.type == "SpecChanged" and r.stream == STREAM)


async def _export() -> bytes:
    log = await log_of(RECORDS)
    return b"".join([block async for block in export(log, None, rayfold="0.1.0", now=0)])


@pytest.fixture(scope="module")
def exported() -> bytes:
    return asyncio.run(_export())


@pytest.fixture
def file(exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file, and no platform to be found."""
    path = tmp_path / "production.jsonl"
    path.write_bytes(exported)
    monkeypatch.setenv("RAYFOLD_DATA", str(tmp_path / "nowhere"))
    for name in ("RAYFOLD_URL", "RAYFOLD_TOKEN", "RAYFOLD_APP", "RAYFOLD_TEAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return str(path)


Run = Callable[..., str]


@pytest.fixture
def run(file: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def once(*words: str, code: int = 0) -> str:
        found = main([*words, "--file", file])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else out + err

    return once


def test_a_state_is_shown_as_it_was(run: Run) -> None:
    now = json.loads(run("replay", "shop", "--json"))
    then = json.loads(run("replay", STREAM, "--version", "3", "--json"))

    assert (now["stream"], now["version"], then["version"]) == (STREAM, LAST, 3)
    assert then["state"]["current"] == 0
    at = json.loads(run("replay", "shop", "--at", then["at"], "--json"))
    assert at["version"] >= 3
    offset = then["position"].partition(":")[2]
    assert json.loads(run("replay", "shop", "--offset", offset, "--json")) == then


def test_a_moment_before_the_first_event_is_said_to_be_one(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "shop", "--at", "1960-01-01", "--file", file]) == 0

    assert f"{STREAM} before its first event\n" in capsys.readouterr().err


def test_steps_are_printed_where_nobody_sits_at_a_terminal(run: Run) -> None:
    told = run("replay", "shop", "--step", "--to", "20")

    assert "SpecChanged" in told
    assert '+ spec.config.EARLY: "1"' in told
    assert "was decided from command" in told and "is the outcome of InstanceStarting" in told
    assert "\x1b[" not in told
    steps = [json.loads(line) for line in run("replay", "shop", "--step", "--from", "4", "--json").splitlines()]
    assert [step["event"]["version"] for step in steps] == list(range(4, LAST + 1))
    assert steps[-1]["after"] == json.loads(run("replay", "shop", "--json"))["state"]
    assert steps[0]["after"] == steps[1]["before"]
    assert '"status": "absent"' in run("replay", "shop", "--step", "--to", "1", "--states")
    assert len(run("replay", "shop", "--step", "--version", "7", "--json").splitlines()) == 7


def test_the_whole_platform_is_shown(run: Run) -> None:
    told = run("replay", "--all")

    assert "default/shop/web" in told and "node1" in told and "shop.example.com/api" in told
    lines = [json.loads(line) for line in run("replay", "--all", "--json").splitlines()]
    assert {line["stream"] for line in lines} == {record.stream for record in RECORDS}
    assert run("replay", "--all", "--at", "1960-01-01", "--json") == ""


def test_what_changed_and_who_did_it(run: Run) -> None:
    told = run("diff", "shop", "1", str(SETTINGS))
    assert '+ spec.config.EARLY: "1"' in told and f"by SpecChanged v{SETTINGS}" in told and "asked by tester" in told
    found = json.loads(run("diff", "shop", "1", "--json"))
    assert (found["from_version"], found["to_version"]) == (1, LAST)
    app = run("diff", "--app", "shop", "--from", "1969-01-01", "--to", "2000-01-01")
    assert "component web" in app and "releases web" in app and f"builds {WEB}-op1" in app
    areas = [c["area"] for c in json.loads(run("diff", "--app", "shop", "--from", "1969-01-01", "--json"))["changes"]]
    assert areas and areas[0] == "app"


def test_why_a_field_is_what_it_is(run: Run) -> None:
    story = run("why", "shop", "current", "--all")

    assert story.startswith("current = ")
    assert "“the new one is slow”" in story, "in the user's own words"
    assert "nothing has set it" in run("why", "shop", "config.NEVER")
    assert len(json.loads(run("why", "shop", "version", "--json"))["settings"]) == 10
    assert len(json.loads(run("why", "shop", "version", "--all", "--json"))["settings"]) == LAST


def test_commands_nobody_gave_are_decided(run: Run, tmp_path: Path) -> None:
    (tmp_path / "commands.json").write_text('[{"type":"ChangeSpec","scale":9},{"type":"Restart"}]')

    told = run("whatif", "shop", "--command", "commands.json", "--command", '{"type":"ChangeSpec","scale":101}')

    assert "OperationStarted" in told and "then RolloutStarted" in told
    assert told.count("refused, conflict") == 2, "the first one is under way"
    quota = '{"type":"ChangeSpec","settings":{"memory_bytes":"1073741824"},"routes_add":[{"host":"x.example.com"}]}'
    compared = run("whatif", "shop", "--version", "100", "--command", quota).splitlines()
    assert compared[1:3] == ["  ~ memory_bytes: 536870912 → 1073741824", "  ~ release: 4 → 5"]
    assert compared[3:5] == ['  + routes: "x.example.com/"', "  by these events:"]
    assert all(len(line) < 260 for line in compared) and any(line.endswith("…") for line in compared)
    assert "note: nothing here tells who holds x.example.com/: it is taken for free" in compared
    refused = json.loads(run("whatif", "shop", "--command", '{"type":"ChangeSpec","scale":101}', "--json"))
    assert refused["outcomes"][0]["refusal"]["code"] == "invalid"
    position = json.loads(run("replay", "shop", "--version", "3", "--json"))["position"].partition(":")[2]
    then = json.loads(run("whatif", "shop", "--offset", position, "--command", '{"type":"Restart"}', "--json"))
    assert then["version"] == 3
    early = run("whatif", "shop", "--version", "0", "--command", '{"type":"Restart"}')
    assert "refused, not_found" in early


def test_a_changed_apply_is_compared_with_the_recorded_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine_for_the_command_line.py").write_text(
        "from events.model.component_fold import apply\n"
        "import msgspec\n"
        "def late(state, event, at):\n"
        "    state = apply(state, event, at)\n"
        "    if state.version > 10:\n"
        "        return msgspec.structs.replace(state, drained=('x',))\n"
        "    return state\n"
    )

    same = run("whatif", "shop", "--with", "mine_for_the_command_line:apply")
    parted = run("whatif", "shop", "--with", "mine_for_the_command_line:late", code=1)

    assert same == f"the same state after each of {LAST} events\n"
    assert "parts at" in parted and " v11 " in parted and '+ drained.0: "x"' in parted
    checked = run("check", "shop", "--with", "mine_for_the_command_line:late")
    assert checked.startswith(f"same  {STREAM}  {LAST} events")


APPLIES = """
import os, sys
from events.model.component_fold import apply
import msgspec
print("read in")

def gives_up(state, event, at):
    sys.exit(0)

def leaves(state, event, at):
    os._exit(0)

def breaks_late(state, event, at):
    if state.version == 20:
        raise ValueError("no such thing")
    return msgspec.structs.replace(apply(state, event, at), drained=("x",))

async def later(state, event, at):
    return state
"""


def test_an_apply_that_never_gives_a_state_is_never_told_as_sound(run: Run, tmp_path: Path) -> None:
    (tmp_path / "applies_for_the_command_line.py").write_text(APPLIES)
    mine = "applies_for_the_command_line:"

    assert f"ended without a verdict on shop (default/shop/web, {STREAM})" in run(
        "check", "shop", "--with", mine + "leaves", code=1
    )
    assert "1 streams checked, 1 unsound" in run("check", "shop", "--with", mine + "gives_up", code=1)
    gone = run("whatif", "shop", "--with", mine + "gives_up", code=1)
    assert "failed at" in gone and " v1 " in gone and "your apply failed: SystemExit: 0" in gone
    late = run("whatif", "shop", "--with", mine + "breaks_late", code=1)
    assert "parts at" in late and "after that your apply failed: ValueError: no such thing" in late
    assert "nothing differs" not in gone + late and "at the end" not in gone + late
    for command in ("check", "whatif"):
        assert "found an async function" in run(command, "shop", "--with", mine + "later", code=1 + (command[0] == "w"))


def test_what_a_module_prints_does_not_stand_in_the_answer(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud_for_the_command_line.py").write_text(APPLIES)

    assert main(["whatif", "shop", "--with", "loud_for_the_command_line:apply", "--json", "--file", file]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out)["same"] and "read in" in err


def test_folds_are_checked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "clocked_for_the_command_line.py").write_text(
        "import msgspec, time\n"
        "from events.model.team import apply as recorded\n"
        "def apply(state, event, at):\n"
        "    return msgspec.structs.replace(recorded(state, event, at), name=str(int(time.time()) // 10**8))\n"
    )
    assert run("check", "team/default", "shop").count("same  ") == 2
    verdicts = [json.loads(line) for line in run("check", "--all", "--json").splitlines()]
    assert len(verdicts) == len({record.stream for record in RECORDS})
    assert all(verdict["same"] for verdict in verdicts)
    told = run("check", "team/default", "--with", "clocked_for_the_command_line:apply", code=1)
    assert "differs" in told and "first after version 1" in told and "~ name" in told


def test_a_file_is_checked_and_listed(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", file]) == 0
    out, err = capsys.readouterr()
    assert STREAM in out and "sound" in err
    broken = Path(file).read_text().splitlines()
    Path(file).write_text("\n".join([*broken[:5], broken[6], ""]))
    assert main(["import", file]) == 1
    assert "line 6: " in capsys.readouterr().err
    assert main(["replay", "shop", "--file", file]) == 1
    assert main(["replay", "shop", "--file", "no-such-file"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["replay"], 2, "expected a STREAM"),
        (["replay", "shop", "--all"], 2, "expected --all with --at only"),
        (["replay", "shop", "--from", "3"], 2, "with --step or --pdb"),
        (["replay", "team/nobody"], 3, "expected events of team/nobody"),
        (["replay", "nope"], 3, "expected events of nope (default/nope/web, component/e10431f5de8c25b6), found none"),
        (["check", "mine/nope/web"], 3, "expected events of mine/nope/web (component/"),
        (["replay", "shop", "--offset", "99999"], 2, "expected an offset below"),
        (["replay", "shop", "--step", "--offset", "999999999999999999999"], 2, "expected an offset below"),
        (["replay", "shop", "--step", "--at", "1960-01-01"], 2, "expected a moment from the first event of shop"),
        (["why", "shop", ""], 2, "expected a FIELD"),
        (["replay", "planet/mars/x/y"], 2, "expected a stream"),
        (["replay", "shop", "--version", "99999"], 2, "expected a version from 0"),
        (["replay", "shop", "--step", "--from", "9", "--to", "3"], 2, "first before last"),
        (["diff", "shop"], 2, "two moments"),
        (["diff"], 2, "rayfold diff --app shop"),
        (["diff", "shop", "9:1"], 2, "expected a position in partition"),
        (["why", "shop", "scael"], 2, "did you mean scale"),
        (["whatif", "shop"], 2, "either --with or --command"),
        (["whatif", "shop", "--with", "nothing"], 2, "expected module:function"),
        (["whatif", "shop", "--command", "{"], 2, "expected a command as JSON"),
        (["whatif", "shop", "--command", '{"type":"ChangeSpec","scael":3}'], 2, "did you mean scale"),
        (["whatif", "shop", "--command", '{"type":"Restart"}', "--offset", "99999"], 2, "expected an offset below"),
        (["whatif", "shop", "--with", "a:b", "--offset", "0"], 2, "with --command only"),
        (["whatif", "shop", "--command", "no.json"], 2, "a file that holds it"),
        (["whatif", "shop", "--command", '{"type":"No"}'], 2, "NAME one of"),
        (["check"], 2, "either streams or --all"),
        (["check", "team/nobody"], 3, "team/nobody"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(run: Run, words: list[str], code: int, said: str) -> None:
    assert said in run(*words, code=code)


# --- at a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A command with a terminal of its own: type a line, read up to what should come."""

    def __init__(self, *words: str, colour: bool = True) -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        environment.pop("NO_COLOR", None)
        environment |= {} if colour else {"NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", *words], stdin=slave, stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> str:
        """What came up to and with `text`; fails when it does not come within 20 s."""
        deadline = time.monotonic() + 20
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"expected {text!r}, found {self.seen[-2000:]!r}"
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                piece = b""
            assert piece, f"expected {text!r}, it ended with {self.seen[-2000:]!r}"
            self.seen += piece.decode(errors="replace").replace("\r\n", "\n")
        head, _, self.seen = self.seen.partition(text)
        return head + text

    def type(self, line: str, text: str) -> str:
        os.write(self._master, f"{line}\n".encode())
        return self.until(text)

    def end(self, line: str) -> int:
        os.write(self._master, f"{line}\n".encode())
        code = self.process.wait(20)
        os.close(self._master)
        return code


def test_a_walk_through_a_history_goes_both_ways(file: str) -> None:
    terminal = Terminal("replay", "shop", "--step", "--file", file)
    prompt = f" of {LAST}) "

    assert "ComponentCreated" in terminal.until(f"(1{prompt}")
    assert "EndpointsChanged" in terminal.type("n", f"(2{prompt}")
    assert "RoutingApplied" in terminal.type("", f"(3{prompt}")
    assert "\x1b[32m+ spec.config.EARLY" in terminal.type(f"g {SETTINGS}", prompt), "in colour at a terminal"
    assert "OperationStarted" in terminal.type("p", f"({SETTINGS - 1}{prompt}")
    assert "ReleaseCreated" in terminal.type("/releasecreated", prompt)
    assert "→ \x1b[32m3" in terminal.type("f scale", prompt), "the first event after which the scale is another"
    assert "3\x1b[0m → \x1b[32m1" in terminal.type("f", prompt), "it was destroyed, and made anew"
    assert "no further change of scale" in terminal.type("f", prompt)
    assert "did you mean scale" in terminal.type("f scael", prompt)
    assert "there are versions 1 to" in terminal.type(f"g {LAST + 1}", prompt)
    assert "ComponentCreated" in terminal.type("g 1", f"(1{prompt}")
    assert '"status": "absent"' in terminal.type("b", f"(1{prompt}")
    assert '"status": "active"' in terminal.type("a", f"(1{prompt}")
    assert "q: quit" in terminal.type("what?", f"(1{prompt}")
    assert terminal.end("q") == 0


def test_nothing_is_coloured_for_those_who_want_none(file: str) -> None:
    terminal = Terminal("replay", "shop", "--step", "--from", str(SETTINGS), "--file", file, colour=False)

    told = terminal.until(f"({SETTINGS} of {LAST}) ")

    assert '+ spec.config.EARLY: "1"' in told and "\x1b[3" not in told
    assert terminal.end("q") == 0


def test_the_debugger_stops_in_the_real_apply_with_event_and_state_at_hand(file: str) -> None:
    terminal = Terminal("replay", "shop", "--pdb", "--from", str(SETTINGS), "--file", file)

    begun = terminal.until("(Pdb) ")
    assert f"v{SETTINGS} SpecChanged" in begun and "component_fold.py" in begun and "apply()" in begun
    assert "EARLY" in terminal.type("p event.spec.config", "(Pdb) ")
    assert f"\n{SETTINGS - 1}\n" in terminal.type("p state.version", "(Pdb) ")
    onwards = terminal.type("c", "(Pdb) ")
    assert f"v{SETTINGS + 1} " in onwards
    assert f"\n{SETTINGS}\n" in terminal.type("p state.version", "(Pdb) ")
    assert terminal.end("q") == 0


# --- with a platform --------------------------------------------------------------------------------------------------


def test_without_a_file_the_platform_is_asked(
    server: ContractServer, exported: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by = {"position": "0:1", "version": 3, "type": "SpecChanged", "at": "2026-01-31T12:00:00Z", "asked_by": "ada",
          "asked_reason": "be polite", "operation": "op1"}  # fmt: skip
    setting = {"kind": "added", "before": None, "after": "1", "by": by}
    story = {"field": "spec.config.A", "present": True, "value": "1", "times": 1, "settings": [setting]}
    change = {"path": "spec.config.A", "kind": "added", "before": None, "after": "1", "by": by}
    compared = {"team": "default", "app": "shop", "from": "2026-01-31T12:00:00Z", "to": "2026-01-31T13:00:00Z",
                "streams": [STREAM], "changes": [change | {"area": "config", "name": "web"}]}  # fmt: skip
    outcome = {"command": "Restart", "refusal": {"code": "conflict", "message": "busy", "hint": ""}}
    server.answers |= {
        "why": (200, story),
        "diffApp": (200, compared),
        "whatIf": (200, {"stream": STREAM, "version": 3, "outcomes": [outcome]}),
        "replayAll": (200, {"streams": 3, "events": 9, "teams": [{"team": "t", "name": "t", "status": "active"}]}),
        "exportStream": exported,
        "export": exported,
    }

    for words, said in (
        (["why", "shop", "config.A"], "asked by ada “be polite”"),
        (["diff", "--app", "shop", "--from", "1h"], '+ spec.config.A: "1"'),
        (["whatif", "shop", "--command", '{"type":"Restart"}'], "refused, conflict: busy"),
        (["replay", "--all", "--at", "1h"], "active"),
        (["replay", "shop", "--step", "--to", "5"], '+ spec.config.EARLY: "1"'),
        (["check", "shop"], "same"),
    ):
        assert main(words) == 0, capsys.readouterr().err
        assert said in capsys.readouterr().out, words
    assert server.of("exportStream")[0].query == {"related": "true"}
    assert server.of("diffApp")[0].query["team"] == "default"
    server.answers["replay"] = (200, {"stream": STREAM, "version": 1, "state": {"TOKEN": "•••• (22d6)"}})
    for moment in ("--offset", "--version"):
        assert main(["replay", "shop", moment, "0"]) == 0
        assert server.of("replay")[-1].query == {moment[2:]: "0"}
        assert '"TOKEN": "•••• (22d6)"' in capsys.readouterr().out
    server.answers["replay"] = (200, {"stream": STREAM, "version": 4, "state": {}})
    assert main(["replay", "shop", "--step", "--offset", "700"]) == 0, "whether there is such an offset it must say"
    assert server.of("replay")[-1].query == {"offset": "700"}
    assert " v4 " in (told := capsys.readouterr().out) and " v5 " not in told
    kept = tmp_path / "kept.jsonl"
    assert main(["export", "--app", "shop", "-o", str(kept)]) == 0
    assert kept.read_bytes() == exported
    assert kept.stat().st_mode & 0o777 == 0o600
    server.answers["export"] = exported[:-100]
    assert main(["export", "--all", "-o", str(tmp_path / "cut.jsonl")]) == 1
    assert "cut off" in capsys.readouterr().err
    server.answers.pop("export")
    assert main(["export", "--app", "nothing", "-o", str(tmp_path / "none.jsonl")]) == 3
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["cut.jsonl", "kept.jsonl"]
