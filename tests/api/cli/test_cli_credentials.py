"""Credentials on the command line: a secret comes from a file, stdin or the terminal, and never from an argument."""

import io
import json
from pathlib import Path

import pytest

from api.cli.main import main
from tests.api.cli.conftest import ContractServer

DONE = {"team": "default", "operation": None, "position": None, "stream": "s", "version": 1, "service_id": None}
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA"
KEPT = {
    "team": "default", "name": "deploy", "kind": "ssh_key", "prefix": "git@git.example.com:acme", "user": "",
    "public_key": PUBLIC, "fingerprint": "SHA256:abc", "key": "0123456789abcdef", "readable": True, "position": "1:2",
}  # fmt: skip
TOKEN = {
    **KEPT, "name": "ci", "kind": "password", "prefix": "https://git.example.com", "user": "git", "public_key": "",
    "fingerprint": "fedcba9876543210",
}  # fmt: skip
HOST = {"team": "default", "host": "[git.example.com]:2222", "keys": [PUBLIC], "fingerprints": ["SHA256:xyz"]}


def body_of(server: ContractServer) -> dict[str, object]:
    [asked] = server.of("putCredential")
    assert isinstance(asked.body, dict)
    return {key: value for key, value in asked.body.items() if value}


def test_a_token_is_taken_from_stdin(server: ContractServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["putCredential"] = (200, TOKEN)
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    assert main(["credentials", "add", "ci", "--url", "https://git.example.com", "--user", "ada", "-m", "why"]) == 0
    assert body_of(server) == {"prefix": "https://git.example.com", "user": "ada", "token": "hunter2", "reason": "why"}


def test_a_token_is_taken_from_a_file_that_only_its_owner_can_read(
    server: ContractServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["putCredential"] = (200, TOKEN)
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    file.chmod(0o644)
    asked = ["credentials", "add", "ci", "--url", "https://git.example.com", "--token-file", str(file)]
    assert main(asked) == 2
    assert f"chmod 600 {file}" in capsys.readouterr().err and not server.asked
    file.chmod(0o600)
    assert main(asked) == 0
    assert body_of(server)["token"] == "hunter2"
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_pair_is_made_and_its_public_half_is_all_of_the_output(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["putCredential"] = (200, KEPT)
    assert main(["credentials", "add", "deploy", "--url", "git@git.example.com:acme"]) == 0
    said = capsys.readouterr()
    assert said.out == PUBLIC + "\n" and "deploy key" in said.err
    assert body_of(server) == {"prefix": "git@git.example.com:acme"}


def test_a_private_key_is_brought_from_a_file(server: ContractServer, tmp_path: Path) -> None:
    server.answers["putCredential"] = (200, KEPT)
    file = tmp_path / "id"
    file.write_text("-----BEGIN\nx\n-----END\n")
    file.chmod(0o600)
    assert main(["credentials", "add", "deploy", "--url", "git@host:acme", "--key", str(file)]) == 0
    assert body_of(server)["private_key"] == "-----BEGIN\nx\n-----END"


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "a", "--url", "https://host", "--key", "x"],
        ["add", "a", "--url", "git@host:acme", "--token-file", "x"],
        ["add", "a", "--url", "https://host", "--token-file", "/nowhere"],
        ["add", "a"],
        ["pin", "a b"],
    ],
)
def test_wrong_usage_sends_nothing(server: ContractServer, arguments: list[str]) -> None:
    assert main(["credentials", *arguments]) == 2
    assert not server.asked


def test_the_list_shows_everything_but_secrets(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {**TOKEN, "readable": False}
    server.answers["listCredentials"] = (200, {"items": [gone, KEPT], "next_cursor": None})
    server.answers["listHostKeys"] = (200, {"items": [HOST], "next_cursor": None})
    assert main(["credentials"]) == 0
    said = "".join(capsys.readouterr())
    for word in ("ci", "token of git", "no: its key", "SHA256:abc", PUBLIC, "[git.example.com]:2222", "SHA256:xyz"):
        assert word in said
    assert main(["credentials", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"credentials", "host_keys"}


def test_it_is_removed_with_a_reason(server: ContractServer) -> None:
    server.answers["removeCredential"] = (200, DONE)
    assert main(["credentials", "remove", "ci", "-m", "ann has left"]) == 0
    [asked] = server.of("removeCredential")
    assert asked.params["credential"] == "ci" and asked.query == {"reason": "ann has left"}


def test_a_host_is_pinned_by_the_lines_that_are_its_own(
    server: ContractServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers |= {"pinHostKeys": (200, DONE), "listHostKeys": (200, {"items": [HOST], "next_cursor": None})}
    lines = [
        "# git.example.com:2222 SSH-2.0-OpenSSH",
        f"[git.example.com]:2222 {PUBLIC} a comment",
        f"[git.example.com]:2222,[10.0.0.1]:2222 {PUBLIC}",
        f"git.example.com {PUBLIC}x",
        f"@revoked [git.example.com]:2222 {PUBLIC}y",
        f"|1|abc|def {PUBLIC}z",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["credentials", "pin", "git.example.com:2222"]) == 0
    [asked] = server.of("pinHostKeys")
    assert asked.params["host"] == "git.example.com:2222"
    assert asked.body == {"keys": [PUBLIC], "reason": ""}
    assert "SHA256:xyz" in capsys.readouterr().err


def test_lines_of_other_hosts_pin_nothing_and_it_says_how(
    server: ContractServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"other.example.com {PUBLIC}\n"))
    assert main(["credentials", "pin", "git.example.com:2222"]) == 2
    assert "ssh-keyscan -p 2222 git.example.com | rayfold credentials pin" in capsys.readouterr().err
    assert not server.asked
