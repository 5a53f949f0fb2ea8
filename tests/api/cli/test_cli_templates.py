"""Templates on the command line: what is sent, what is shown before an upgrade, files that are whole or not there."""

from pathlib import Path

import pytest

from api.cli.main import main
from tests.api.cli.conftest import Asked, ContractServer

PUBLISHED = {
    "team": "default", "name": "shop", "version": "1.0", "digest": "ab" * 32, "position": "0:1", "published": True,
}  # fmt: skip
VARIABLE = {"value": "", "secret": False, "required": False, "generated": False, "same_as": ""}
VERSION = {
    "team": "default", "name": "shop", "version": "1.0", "digest": "ab" * 32, "description": "a shop",
    "source": "default/shop", "published_at": "2026-05-01T00:00:00Z", "published_by": "ann",
    "components": [
        {"name": "web", "process": "web", "http": True, "artifact": "cd" * 32, "size_bytes": 5, "scale": 2,
         "settings": {}, "needs": ["db"], "crons": ["tidy"],
         "variables": {"GREETING": {**VARIABLE, "value": "hello"}, "MAIL": {**VARIABLE, "required": True},
                       "KEY": {**VARIABLE, "secret": True, "generated": True},
                       "PASSWORD": {**VARIABLE, "secret": True, "same_as": "db.PASSWORD"}}},
    ],
}  # fmt: skip
INSTALLED = {
    "team": "default", "app": "branch", "template": "shop", "version": "1.0", "finished": True, "waiting_for": None,
    "operations": [],
}  # fmt: skip
UPGRADE = {
    "team": "default", "app": "branch", "template": "shop", "from": "1.0", "to": "2.0", "missing": ["web.NEW"],
    "changes": [
        {"component": "web", "attribute": "scale", "base": "1", "now": "5", "new": "3", "action": "conflict"},
        {"component": "web", "attribute": "config.A", "base": None, "now": None, "new": "1", "action": "add"},
    ],
}  # fmt: skip


def test_publish_says_what_and_whose(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["publishTemplate"] = (200, PUBLISHED)

    words = ["template", "publish", "shop", "--name", "shop", "--version", "1.0", "--describe", "a shop",
             "--require", "web.MAIL", "--generate", "web.KEY", "-m", "for all"]  # fmt: skip
    assert main(words) == 0

    assert server.of("publishTemplate")[0].body == {
        "name": "shop", "version": "1.0", "app": "shop", "description": "a shop", "required": ["web.MAIL"],
        "generated": ["web.KEY"], "reason": "for all",
    }  # fmt: skip
    assert "ab" * 32 in capsys.readouterr().out


def test_what_is_there_is_listed_and_shown(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    page = {"items": [VERSION], "next_cursor": None}
    server.answers |= {"listTemplates": (200, page), "listTemplateVersions": (200, page), "getTemplate": (200, VERSION)}

    for words in (["template"], ["template", "list"], ["template", "versions", "shop"]):
        assert main(words) == 0
        assert "shop@1.0" in capsys.readouterr().out
    for which in ("shop", "shop@1.0"):
        assert main(["template", "show", which]) == 0
        told = capsys.readouterr().out
        assert "(to be given)" in told and "(as db.PASSWORD)" in told and "(made up when installed)" in told


def test_install_goes_on_under_one_key_until_it_is_done(server: ContractServer) -> None:
    answers = iter([{**INSTALLED, "finished": False, "waiting_for": "op"}, INSTALLED])
    server.answers["installTemplate"] = lambda asked: (202, next(answers))

    assert main(["template", "install", "shop@1.0", "--app", "branch", "--set", "db.PASSWORD=a=b"]) == 0

    first, second = server.of("installTemplate")
    assert first.body == {"app": "branch", "version": "1.0", "set": {"db.PASSWORD": "a=b"}, "reason": ""}
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.params["template"] == "shop"


def test_install_wants_an_app_and_whole_names(server: ContractServer) -> None:
    assert main(["template", "install", "shop"]) == 2
    assert main(["template", "install", "shop", "--app", "a", "--set", "PASSWORD=x"]) == 2
    assert server.asked == []


def test_an_upgrade_is_shown_and_what_was_shown_is_done(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers |= {"previewUpgrade": (200, UPGRADE), "upgradeApp": (200, INSTALLED)}

    assert main(["template", "upgrade", "branch", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "CONFLICT: yours is kept" in told.out and "--set web.NEW" in told.err
    assert server.of("upgradeApp") == []
    assert main(["template", "upgrade", "branch", "--take-theirs", "--set", "web.NEW=1"]) == 0

    [asked] = server.of("upgradeApp")
    assert asked.body == {"to": "2.0", "take_theirs": True, "set": {"web.NEW": "1"}, "reason": ""}


def test_a_file_is_whole_or_not_there(server: ContractServer, tmp_path: Path) -> None:
    output = tmp_path / "shop.tar"
    server.answers["exportTemplate"] = (409, {"detail": "an image", "code": "not_exportable"})
    assert main(["template", "export", "shop@1.0", "-o", str(output)]) == 5
    assert list(tmp_path.iterdir()) == []
    assert main(["template", "export", "shop", "-o", str(output)]) == 2

    server.answers["exportTemplate"] = b"the file"
    assert main(["template", "export", "shop@1.0", "-o", str(output)]) == 0
    assert output.read_bytes() == b"the file"


def test_a_file_is_sent_once_and_imported(server: ContractServer, tmp_path: Path) -> None:
    file = tmp_path / "shop.tar"
    file.write_bytes(b"the file")
    sent: list[Asked] = []

    def put(asked: Asked) -> tuple[int, object]:
        sent.append(asked)
        return 201, {"team": "default", "sha256": asked.params["sha256"], "size_bytes": len(asked.raw)}

    server.answers |= {"putUpload": put, "importTemplate": (200, PUBLISHED)}
    assert main(["template", "import", str(file), "--name", "store"]) == 0

    assert [asked.raw for asked in sent] == [b"the file"]
    assert server.of("importTemplate")[0].body == {
        "upload": sent[0].params["sha256"], "name": "store", "reason": "",
    }  # fmt: skip
    assert main(["template", "import", str(tmp_path / "none")]) == 2


def test_remove(server: ContractServer) -> None:
    done = {"team": "default", "operation": None, "position": "3:7", "stream": "s", "version": 1, "service_id": None}
    server.answers["removeTemplate"] = (200, done)
    assert main(["template", "remove", "shop@1.0", "-m", "old"]) == 0
    assert server.of("removeTemplate")[0].query == {"reason": "old"}
