"""Secrets on the command line: how a value gets in without being seen, and that none ever comes out."""

import io
import json
from pathlib import Path

import pytest

from api.cli.given import looks_secret
from api.cli.main import main
from tests.api.cli.conftest import Asked, ContractServer

KEY = {
    "team": "default", "key": "0123456789abcdef", "active": True, "created_at": "2026-01-31T12:00:00Z",
    "destroyed_at": None, "destroyed_by": "", "reason": "",
}  # fmt: skip
SECRET = {
    "team": "default", "app": "shop", "component": "web", "name": "PASSWORD", "fingerprint": "fedcba9876543210",
    "key": "0123456789abcdef", "readable": True,
}  # fmt: skip


def nothing_to_do(server: ContractServer) -> None:
    told = {"team": "default", "operation": None, "position": None, "stream": "s", "version": 1, "service_id": "ab"}
    server.answers["changeConfig"] = (200, told)


def sent(server: ContractServer) -> dict[str, object]:
    [asked] = server.of("changeConfig")
    assert isinstance(asked.body, dict)
    return {name: value for name, value in asked.body.items() if name != "reason"}


def test_a_secret_is_taken_from_stdin(server: ContractServer, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_to_do(server)
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))

    assert main(["config", "set", "--secret", "LOGIN=-", "--app", "shop"]) == 0

    assert sent(server) == {"secret": {"LOGIN": "hunter2"}}


def test_a_whole_file_is_a_value(server: ContractServer, tmp_path: Path) -> None:
    nothing_to_do(server)
    (tmp_path / "cert.pem").write_text("line 1\nline 2\n")

    assert main(["config", "set", "--secret", "--from-file", f"CERT={tmp_path}/cert.pem", "--app", "shop"]) == 0

    assert sent(server) == {"secret": {"CERT": "line 1\nline 2"}}


def test_what_looks_like_a_secret_is_kept_as_one_and_it_says_so(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing_to_do(server)

    assert main(["config", "set", "API_KEY=hunter2", "GREETING=hello", "--app", "shop"]) == 0

    assert sent(server) == {"set": {"GREETING": "hello"}, "secret": {"API_KEY": "hunter2"}}
    said = capsys.readouterr()
    assert "API_KEY" in said.err and "--plain" in said.err and "hunter2" not in said.out + said.err


def test_plain_keeps_it_readable(server: ContractServer) -> None:
    nothing_to_do(server)

    assert main(["config", "set", "--plain", "API_KEY=1", "LINE=-", "--app", "shop"]) == 0

    assert sent(server) == {"set": {"API_KEY": "1", "LINE": "-"}}


@pytest.mark.parametrize(
    ("key", "value", "secret"),
    [
        ("PASSWORD", "x", True),
        ("db_password", "x", True),
        ("STRIPE_API_KEY", "x", True),
        ("GITHUB_TOKEN", "x", True),
        ("DATABASE_URL", "postgres://shop:hunter2@db/shop", True),
        ("DATABASE_URL", "postgres://db/shop", False),
        ("HOMEPAGE", "https://example.com/@me:you", False),
        ("KEYBOARD", "us", False),
        ("COMPASS", "north", False),
        ("GREETING", "hello", False),
    ],
)
def test_which_variables_look_secret(key: str, value: str, secret: bool) -> None:
    assert looks_secret(key, value) == secret


@pytest.mark.parametrize(
    "arguments",
    [
        ["--secret", "--plain", "A=hunter2"],
        ["--secret", "=hunter2"],
        ["--secret", "A=-", "B=-"],
        ["--secret", "--from-file", "A=/no/such/file"],
    ],
)
def test_what_cannot_be_taken_is_a_mistake_of_use_and_repeats_no_value(
    server: ContractServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))

    assert main(["config", "set", *arguments, "--app", "shop"]) == 2

    assert "hunter2" not in capsys.readouterr().err
    assert not server.asked


def test_a_line_that_is_no_variable_is_named_by_its_number(
    server: ContractServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("A=1\nhunter2\n")

    assert main(["config", "set", "--file", str(tmp_path / "env"), "--app", "shop"]) == 2

    said = capsys.readouterr().err
    assert "line 2" in said and "hunter2" not in said


def test_the_list_shows_fingerprints_and_keys(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["listSecrets"] = (200, {"items": [SECRET], "next_cursor": None})
    server.answers["listKeys"] = (200, {"items": [KEY], "next_cursor": None})

    assert main(["secrets"]) == 0
    told = capsys.readouterr()
    assert "PASSWORD" in told.out and "fedcba9876543210" in told.out and "in use" in told.err
    assert main(["secrets", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"secrets": [SECRET], "keys": [KEY]}


def test_a_key_is_destroyed_only_when_it_is_said_and_waited_for(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for: list[Asked] = []

    def keys(asked: Asked) -> tuple[int, object]:
        asked_for.append(asked)
        gone = {"destroyed_at": "2026-01-31T12:00:01Z", "active": False} if len(asked_for) > 2 else {}
        return 200, {"items": [{**KEY, **gone}], "next_cursor": None}

    server.answers["listKeys"] = keys
    done = {"team": "default", "operation": None, "position": "1:2", "stream": "s", "version": 1, "service_id": None}
    server.answers["destroyKey"] = (202, done)

    assert main(["secrets", "destroy-key"]) == 2
    assert not server.of("destroyKey") and "--yes" in capsys.readouterr().err
    assert main(["secrets", "destroy-key", "--yes", "-m", "left"]) == 0
    assert [asked.body for asked in server.of("destroyKey")] == [{"key": KEY["key"], "reason": "left"}]
    assert "is destroyed" in capsys.readouterr().err


def test_the_master_key_is_rotated(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["rotateMaster"] = (200, {"before": "a" * 16, "after": "b" * 16, "rewrapped": 3})

    assert main(["secrets", "rotate-master"]) == 0

    told = capsys.readouterr()
    assert told.out.strip() == "b" * 16 and "3 keys" in told.err
