"""Commands against the API's own route table: what they send, what they print, and the exit codes scripts rely on."""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.main import main
from api.http import schema as s
from tests.api.cli.answers import IDS, accepted, component, deploys, page, parts_in
from tests.api.cli.conftest import HANG, Asked, ContractServer, deploy_events, event, frames

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "shop"
    place.mkdir()
    (place / "app.py").write_text("print('hi')\n")
    return place


def test_deploy_packs_uploads_waits_and_prints_the_url(
    server: ContractServer, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploys(server, deploy_events(release=2))

    code = main(["deploy", str(source), "-m", "try it"])

    out, err = capsys.readouterr()
    assert (code, out) == (0, "http://shop.localhost:8080/\n")
    (put,), (asked,) = server.of("putParts"), server.of("deploy")
    (part,) = parts_in(put.raw)
    digest = hashlib.sha256(part).hexdigest()
    assert part[:2] == b"\x1f\x8b" and digest == asked.body["source"]["digest"]  # type: ignore[index]
    assert [joined.body["sha256"] for joined in server.of("joinUpload")] == [digest] * 2  # type: ignore[index]
    assert asked.body["reason"] == "try it" and asked.params == IDS  # type: ignore[index]
    assert len(asked.headers["Idempotency-Key"]) == 26
    for step in ("pack", "upload", "build", "Python because of requirements.txt", "routed", "drained", "v2 is live"):
        assert step in err
    assert "rayfold logs -f" in err and "rayfold rollback" in err


def test_an_unchanged_directory_is_not_uploaded_again(server: ContractServer, source: Path) -> None:
    deploys(server, deploy_events(), there=True)

    assert main(["deploy", str(source)]) == 0
    assert not server.of("putParts") and len(server.of("joinUpload")) == 1


@pytest.mark.parametrize("there", [False, True])
def test_a_tar_file_is_put_whole_unless_it_is_there(server: ContractServer, tmp_path: Path, there: bool) -> None:
    deploys(server, deploy_events())
    server.answers |= {
        "headUpload": (200, {}) if there else (404, {"code": "not_found", "detail": "no such upload"}),
        "putUpload": (201, {}),
    }
    archive = tmp_path / "Shop.tar.gz"
    archive.write_bytes(b"whatever is in it")

    assert main(["deploy", str(archive), "--subdir", "web"]) == 0

    (asked,) = server.of("deploy")
    digest = hashlib.sha256(b"whatever is in it").hexdigest()
    assert asked.body["source"] == {"kind": "upload", "digest": digest, "subdir": "web"}  # type: ignore[index]
    assert asked.params["app"] == "shop"
    assert [put.raw for put in server.of("putUpload")] == ([] if there else [b"whatever is in it"])


def test_deploy_of_a_git_url_sends_the_url_and_names_the_app_by_it(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    deploys(server, deploy_events())

    assert main(["deploy", "https://git.example/team/Shop.git", "--ref", "v1", "--subdir", "web", "--json"]) == 0

    (asked,) = server.of("deploy")
    expected = {"kind": "git", "url": "https://git.example/team/Shop.git", "ref": "v1", "subdir": "web"}
    assert asked.body["source"] == expected and asked.params["app"] == "shop"  # type: ignore[index]
    assert json.loads(capsys.readouterr().out)["urls"] == ["http://shop.localhost:8080/"]


def test_a_failed_deploy_exits_6_with_reason_lines_and_what_serves(
    server: ContractServer, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = event("OperationFailed", 9.0, code="crashed", reason="it exited", lines=["boom \x1b[2J"], still_serving=1)
    deploys(server, [*deploy_events()[:5], failed])

    assert main(["deploy", str(source)]) == 6

    err = capsys.readouterr().err
    assert "it exited" in err and "v1 still serves" in err and "boom \\x1b[2J" in err and "fix:" in err


def test_a_wait_that_is_too_short_exits_7_and_says_how_to_follow(
    server: ContractServer, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploys(server, [])
    server.answers["followOperation"] = [*frames(*deploy_events()[:3], end=False), HANG]

    assert main(["deploy", str(source), "--timeout", "1"]) == 7
    assert "rayfold operations op1 --follow" in capsys.readouterr().err


def test_detach_prints_the_operation(server: ContractServer, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deploys(server, [])

    assert main(["deploy", str(source), "--detach"]) == 0
    assert capsys.readouterr().out == "op1\n"


def at_a_terminal(command: list[str], **streams: int) -> "subprocess.Popen[str]":
    """A process that Ctrl-C reaches, also where whoever runs the tests ignores it (a job in the background)."""
    unblocked = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=ROOT, text=True, env=dict(os.environ), preexec_fn=unblocked, **streams  # type: ignore[call-overload]
    )  # fmt: skip


def test_ctrl_c_on_a_deploy_detaches_with_130(server: ContractServer, source: Path) -> None:
    deploys(server, [])
    server.answers["followOperation"] = [*frames(*deploy_events()[:4], end=False), HANG]
    command = [sys.executable, "-m", "api.cli", "deploy", str(source)]
    with at_a_terminal(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "build" in line:
                process.send_signal(signal.SIGINT)
                break
        said += process.stderr.read()
    assert process.returncode == 130
    assert "op1 goes on" in said and "--cancel" in said
    assert not server.of("cancelOperation")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["deploy", "no/such/place"], 2, "none of them"),
        (["ps", "scale", "web:3"], 2, "COMPONENT=N"),
        (["config", "set", "A", "--app", "shop"], 2, "KEY=VALUE"),
        (["rollback", "latest", "--app", "shop"], 2, "v3"),
        (["deplyo"], 2, "deploy"),
        (["apps", "destroy", "shop"], 2, "--confirm"),
        (["apps", "destroy", "shop", "--confirm", "shopp"], 2, "--confirm"),
        (["logs", "--since", "yesterday", "--app", "shop"], 2, "expected a time"),
        (["logs", "--source", "nobody", "--app", "shop"], 2, "nobody"),
        (["operations", "--cancel"], 2, "id"),
        (["replay", "shop", "--version", "1", "--offset", "2"], 2, "several"),
        ([], 2, "Usage"),
    ],
)
def test_wrong_usage_exits_2_and_changes_nothing(
    server: ContractServer, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, word: str
) -> None:
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert word in out + err
    assert not [a for a in server.asked if "Idempotency-Key" in a.headers]


def test_an_unknown_app_exits_3_and_names_the_nearest(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    app = s.AppView(team="default", app="shop", status="active", components=["web"], version=1, created_at=None)
    server.answers["listApps"] = page(app.model_dump(mode="json"))

    assert main(["ps", "--app", "shpo"]) == 3
    assert "did you mean shop?" in capsys.readouterr().err
    assert main(["config", "--app", "shop", "-c", "wbe"]) == 3
    assert "did you mean shop/web?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(409, "conflict", 5), (412, "version_mismatch", 5), (401, "unauthorized", 4)]
)
def test_refusals_have_their_exit_codes(
    server: ContractServer, capsys: pytest.CaptureFixture[str], status: int, kind: str, code: int
) -> None:
    server.answers["rollback"] = (status, {"code": kind, "detail": "component web is busy", "hint": "wait for it"})

    assert main(["rollback", "--app", "shop", "--json"]) == code
    error = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    assert error == {"error": "component web is busy", "exit_code": code, "code": kind, "hint": "wait for it",
                     "request_id": "req1"}  # fmt: skip


def test_a_write_is_repeated_under_its_own_key_while_the_platform_is_away(server: ContractServer) -> None:
    def once_away(asked: Asked) -> tuple[int, object]:
        if len(server.of("restart")) == 1:
            return 503, {"code": "unavailable", "detail": "nobody serves this partition now"}
        return accepted(None)

    server.answers["restart"] = once_away

    assert main(["ps", "restart", "--app", "shop"]) == 0
    first, second = server.of("restart")
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_a_broken_stream_is_taken_up_where_it_ended(server: ContractServer) -> None:
    events = deploy_events()

    def in_two_parts(asked: Asked) -> list[str]:
        told = frames(*events)
        return told[3:] if asked.headers.get("Last-Event-ID") == "3.0" else told[:3]

    server.answers |= {"restart": accepted(), "followOperation": in_two_parts}

    assert main(["ps", "restart", "--app", "shop"]) == 0
    assert [a.headers.get("Last-Event-ID") for a in server.of("followOperation")] == [None, "3.0"]


def test_no_platform_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAYFOLD_URL", "RAYFOLD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert main(["ps", "--app", "shop", "--data", str(tmp_path)]) == 1
    assert "rayfold up" in capsys.readouterr().err
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "admin").write_text("secret\n")
    (tmp_path / "api.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": 2**22 + 1}))
    assert main(["status", "--data", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["running"] is False and "does not answer" in err and "is gone" in err


def test_lists_are_tables_for_people_and_json_for_programs(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    item = s.InstanceView(
        **IDS, instance="ab-7", kind="service", status="ready", release=3, node="n1", slot=1, host="127.0.0.1", port=9,
        pid=11, exit_code=None, reason="", lines=[], alive=True, draining=False, starting_at=None,
        ready_at=None, ended_at=None, restart_at=None,
    ).model_dump(mode="json")  # fmt: skip
    server.answers |= {"listComponents": page(component()), "listInstances": page(item)}

    assert main(["ps", "--app", "shop"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:3] == ["INSTANCE", "STATUS", "RELEASE"] and "web.1" in out and "\x1b" not in out
    assert main(["ps", "--app", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [item]


def test_config_is_set_from_arguments_and_from_stdin(
    server: ContractServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.answers["changeConfig"] = accepted(None)
    secrets = tmp_path / "secrets.env"
    secrets.write_text("# comment\nexport TOKEN=a=b\n")

    assert main(["config", "set", "A=1", "--file", str(secrets), "--app", "shop"]) == 0
    assert main(["config", "unset", "A", "B", "--app", "shop"]) == 0

    first, second = server.of("changeConfig")
    assert first.body == {"set": {"A": "1"}, "secret": {"TOKEN": "a=b"}, "reason": ""}
    assert second.body == {"unset": ["A", "B"], "reason": ""}


def test_run_prints_the_lines_of_its_instance_and_exits_with_its_code(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(number: int, instance: str, text: str, stream: str = "o") -> dict[str, object]:
        at = "2026-01-31T12:00:00Z"
        return {"number": number, "at": at, "source": "app", "stream": stream, "instance": instance, "release": 1,
                "text": text, "partial": False, "gap": 0}  # fmt: skip

    lines = [line(5, "ab-1", "not mine"), line(6, "ab-9", "mine"), line(7, "ab-9", "an error", "e")]

    def logs(asked: Asked) -> tuple[int, object]:
        begin = int(asked.query.get("from", 8))
        found = [one for one in lines if int(str(one["number"])) >= begin]
        return 200, {"team": "default", "items": found, "next": 5 if "from" not in asked.query else 8}

    told = [
        event("InstanceStarting", 1.0, operation="", instance="ab-9", kind="task", task="op1"),
        event("InstanceExited", 2.0, operation="", instance="ab-9", exit_code=3),
        event("OperationFailed", 2.1, code="task_failed", reason="exit code 3"),
    ]

    def page_once(asked: Asked) -> tuple[int, object]:
        assert asked.query["since"] in ("3:0", "1.2")
        items = told if asked.query["since"] == "3:0" else []
        return 200, {"items": items, "next_cursor": "1.2", "caught_up": True}

    server.answers |= {"getLogs": logs, "runTask": accepted(), "listComponentEvents": page_once}

    assert main(["run", "--app", "shop", "python", "-c", "print('a b')"]) == 3

    out, err = capsys.readouterr()
    assert out == "mine\n" and "an error" in err and "not mine" not in out + err
    assert server.of("runTask")[0].body["command"] == "python -c 'print('\"'\"'a b'\"'\"')'"  # type: ignore[index]


def test_replay_diff_and_events_speak_of_streams(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"team": "default", "stream": "component/x", "version": 4, "position": "3:9", "at": None, "state": {"a": 1}}
    change = {"path": "current", "before": 1, "after": None}
    changes = {"team": "default", "stream": "component/x", "from_version": 1, "to_version": 4, "changes": [change]}
    server.answers |= {
        "replay": (200, state),
        "diff": (200, changes),
        "listEvents": (
            200,
            {"items": [event("RolloutStarted", 1.0, release=2)], "next_cursor": "9", "caught_up": True},
        ),
    }

    assert main(["replay", "shop", "--offset", "9"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    assert main(["diff", "component/x", "1", "4"]) == 0
    assert capsys.readouterr().out == "current: 1 → (none)\n"
    assert main(["events", "--type", "RolloutStarted", "--app", "shop"]) == 0
    assert "RolloutStarted by admin release=2" in capsys.readouterr().out
    assert server.of("replay")[0].params["stream"].startswith("component/")
    assert server.of("diff")[0].query == {"from": "v1", "to": "v4"}


def test_logs_are_followed_until_the_reader_goes(server: ContractServer) -> None:
    line = {"number": 1, "at": "2026-01-31T12:00:00Z", "source": "app", "stream": "o", "instance": "ab-3",
            "release": 1, "text": "hello \x1b[2J", "partial": False, "gap": 0}  # fmt: skip
    server.answers |= {"getComponent": (200, component()), "getLogs": [*frames(line, end=False), HANG]}
    command = [sys.executable, "-m", "api.cli", "logs", "-f", "--app", "shop"]
    with at_a_terminal(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2026-01-31T12:00:00.000Z app[web-3]: hello \\x1b[2J\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = "ray sqlalchemy grpc pydantic aiohttp msgspec rich asyncio"
    code = f"import sys, api.cli.main; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_component_may_be_called_otherwise_than_its_process(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["createComponent"] = (201, accepted(operation=None)[1])

    assert main(["apps", "add", "cache", "--no-http", "--app", "shop"]) == 0

    (asked,) = server.of("createComponent")
    assert asked.body == {"name": "cache", "process": "web", "http": False, "reason": ""}
    assert "rayfold deploy --component cache" in capsys.readouterr().err
