"""Names, times and texts: what the command line makes of what it is given, and what it lets through to a terminal."""

import io
import json
from pathlib import Path

import pytest

from api.cli.document import Document
from api.cli.domains import split_address
from api.cli.errors import ApiProblem, CliError, ExitCode
from api.cli.feed import parse
from api.cli.history import moment_name, stream_name
from api.cli.instances import current
from api.cli.loglines import line_text, since_time
from api.cli.output import Output, ago, coloured, duration
from api.cli.safe import visible, visible_json
from api.cli.session import Session, normalised
from api.cli.streams import KINDS
from events.model.base import name_problem, service_id_of
from events.model.registry import AGGREGATES


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain text", "plain text"),
        ("tab\tkept", "tab\tkept"),
        ("é ✓ 日本", "é ✓ 日本"),
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\rb\nc\x00\x7f\x9b31m", "a\\x0db\\x0ac\\x00\\x7f\\x9b31m"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_that_could_drive_a_terminal_gets_through(text: str, safe: str) -> None:
    assert visible(text) == safe


def test_a_hostile_log_line_and_error_are_printed_safely(capsys: pytest.CaptureFixture[str]) -> None:
    line = Document({"at": "2026-01-31T12:00:00Z", "source": "app", "instance": "ab-\x1b3", "text": "\x1b[31mred"})
    print(line_text(line, "web"))
    Output().error(CliError("no \x1b[1m", hint="do \x07", lines=("\x1b]2;x",)))
    Output().table(["a"], [["\x1b[2J"]])

    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err


@pytest.mark.parametrize(
    ("directory", "name"),
    [("My_Shop 2", "my-shop-2"), ("--x--y--", "x-y"), ("123", ""), ("1st-try", "st-try"), ("a" * 60, "a" * 40),
     ("a" * 39 + "-b", "a" * 39), ("Ünïcode", "n-code")],
)  # fmt: skip
def test_a_directory_becomes_a_name_that_the_model_takes(directory: str, name: str) -> None:
    assert normalised(directory) == name
    assert not name or name_problem("an app name", name) is None


def test_the_app_is_found_from_option_environment_file_and_directory_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAYFOLD_APP", raising=False)
    place = tmp_path / "my-dir"
    place.mkdir()
    assert Session(directory=place).app_name == "my-dir"
    assert "app my-dir (from the directory my-dir" in capsys.readouterr().err
    (place / "rayfold.toml").write_text('app = "from-file"\nteam = "crew"\n')
    assert (Session(directory=place).app_name, Session(directory=place).team_name) == ("from-file", "crew")
    monkeypatch.setenv("RAYFOLD_APP", "from-env")
    assert Session(directory=place).app_name == "from-env"
    assert Session(directory=place, app="given").app_name == "given"
    (place / "rayfold.toml").write_text("app = 3\n")
    monkeypatch.delenv("RAYFOLD_APP")
    with pytest.raises(CliError, match="expected text for `app`"):
        _ = Session(directory=place).app_name


def test_a_component_is_a_stream_by_the_same_id_that_the_model_gives_it() -> None:
    session = Session(team="crew", component="api")
    assert stream_name(session, "shop") == f"component/{service_id_of('crew', 'shop', 'api')}"
    assert stream_name(session, "shop/worker") == f"component/{service_id_of('crew', 'shop', 'worker')}"
    assert stream_name(session, "other/shop/web") == f"component/{service_id_of('other', 'shop', 'web')}"
    assert stream_name(session, "route/shop.localhost/") == "route/shop.localhost/"
    assert stream_name(session, "parked/component/0123456789abcdef") == "parked/component/0123456789abcdef"
    assert set(KINDS) == set(AGGREGATES), "each kind of stream is named as it stands"
    with pytest.raises(CliError) as refused:
        stream_name(session, "a//b")
    assert refused.value.exit_code is ExitCode.USAGE


def test_moments_and_spans() -> None:
    assert moment_name("12") == "v12"
    assert moment_name("3:120") == "3:120"
    assert moment_name("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"
    assert moment_name("10m").endswith("Z")
    assert since_time("2026-01-31T13:00:00+01:00") == "2026-01-31T12:00:00Z"
    assert since_time("10min") <= since_time("10m ago") <= since_time("10 m") < since_time("now")
    assert (duration(1.234), duration(90), duration(7000), ago("never")) == ("1.23 s", "90 s", "117 min", "never")
    for wrong in ("yesterday", "999999999w"):
        with pytest.raises(CliError) as refused:
            since_time(wrong)
        assert refused.value.exit_code is ExitCode.USAGE


def test_what_is_shown_as_json_keeps_its_letters_and_drives_no_terminal() -> None:
    value = {"TOKEN": "•••• (22d6)", "say": "grüß\x9b31m\x1b[0m\u202egnp\ud800", "lines": "a\nb"}
    assert visible_json({"TOKEN": "••••"}) == '{"TOKEN": "••••"}'
    shown = visible_json(value, indent=2)
    assert shown.count("\n") == 4 and "grüß\\u009b31m\\u001b[0m\\u202egnp\\ud800" in shown
    assert json.loads(shown) == value


def test_addresses() -> None:
    assert split_address("Shop.example.com") == ("shop.example.com", "/")
    assert split_address("shop.example.com/api") == ("shop.example.com", "/api")
    for wrong in ("http://shop.example.com", "shop:80", "/api", ""):
        with pytest.raises(CliError):
            split_address(wrong)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (413, 1), (422, 2), (429, 1), (500, 1), (503, 1)],
)
def test_every_problem_has_its_exit_code(status: int, code: int) -> None:
    assert ApiProblem(status, {"detail": "x"}).exit_code == code


def test_server_sent_events_are_read_as_the_standard_says() -> None:
    raw = (
        b'id: 7\nevent: line\ndata: {"a":\ndata: 1}\n\nid: 8\n: heartbeat\n\ndata:no space\n\nevent: end\ndata: {}\n\n'
    )
    found = [(one.id, one.event, one.data) for one in parse(io.BytesIO(raw))]
    assert found == [
        ("7", "line", '{"a":\n1}'),
        ("8", "heartbeat", ""),
        ("8", "message", "no space"),
        ("8", "end", "{}"),
    ]


def test_ps_shows_what_lives_and_what_waits_to_be_started_again() -> None:
    def instance(slot: int, status: str, alive: bool, restart_at: str | None = None) -> Document:
        return Document({"component": "web", "kind": "service", "slot": slot, "status": status, "alive": alive,
                         "restart_at": restart_at})  # fmt: skip

    soon = "2026-01-31T12:00:00Z"
    crashed = instance(2, "crashed", False, soon)
    newest_first = [crashed, crashed, instance(1, "ready", True), instance(1, "crashed", False, soon)]
    newest_first.append(instance(3, "stopped", False))
    assert [(i.whole("slot"), i.text("status")) for i in current(newest_first)] == [(1, "ready"), (2, "crashed")]


def test_no_colour_without_a_terminal_or_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(Terminal()) and not coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())
