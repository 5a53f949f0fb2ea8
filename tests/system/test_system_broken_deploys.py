"""A deploy that cannot work says why, with the lines that matter; the old release serves on, and a fix goes through."""

from pathlib import Path

import pytest

from tests.actors.builder.conftest import processes_with
from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

START_SECONDS = 3


@pytest.mark.parametrize(
    ("app", "files", "reason", "line"),
    [
        ("broken-build", apps.broken_build(), "pip", "not a requirement"),
        ("no-port", apps.never_listens(), "port", "I have no port to open"),
        ("exits", apps.exits_at_once(), "41", "cannot find my database"),
    ],
)
def test_a_deploy_that_cannot_work(
    platform: Platform, deploy: Deploy, tmp_path: Path, app: str, files: apps.Files, reason: str, line: str
) -> None:
    deploy(app, apps.web("good"))
    platform.cli("settings", "set", f"start_timeout_seconds={START_SECONDS}", "--app", app)
    before = platform.serving(app)

    directory = apps.write(tmp_path / app, files)
    failed = platform.cli("deploy", str(directory), "--app", app, expect=6)

    error = failed.error
    assert reason in error["error"], error
    assert any(line in one for one in error["lines"]), error
    assert f"v{before['release']} still serves" in error["error"], error
    after = platform.serving(app)
    assert (after["text"], after["pid"]) == ("good", before["pid"])

    deploy(app, apps.web("fixed"))
    assert platform.serving(app)["text"] == "fixed"


def test_a_first_deploy_that_cannot_work_leaves_no_release(platform: Platform, tmp_path: Path) -> None:
    directory = apps.write(tmp_path / "stillborn", apps.exits_at_once())

    failed = platform.cli("deploy", str(directory), "--app", "stillborn", expect=6)

    assert "no release serves" in failed.error["error"]
    page = platform.visit("stillborn")
    assert page.status == 503
    assert "stillborn" in page.text
    deployed = platform.cli("deploy", str(apps.write(directory, apps.web("alive"))), "--app", "stillborn")
    assert deployed.json["status"] == "succeeded"
    assert until("the app to answer", lambda: platform.visit("stillborn").status == 200)


def test_a_release_step_that_fails_keeps_the_old_release(platform: Platform, deploy: Deploy, tmp_path: Path) -> None:
    deploy("migrates", apps.web("good"))
    before = platform.serving("migrates")
    files = apps.web("never")
    files["Procfile"] += "release: python3 -c \"raise SystemExit('the table is locked')\"\n"

    failed = platform.cli("deploy", str(apps.write(tmp_path / "x", files)), "--app", "migrates", expect=6)

    assert any("the table is locked" in line for line in failed.error["lines"]), failed.error
    assert platform.serving("migrates") == before

    files = apps.web("never") | {"rayfold.toml": "[build.timeouts]\nrelease = 2\n"}
    files["Procfile"] += "release: exec sleep 123457\n"
    failed = platform.cli("deploy", str(apps.write(tmp_path / "y", files)), "--app", "migrates", expect=6)
    assert "did not end within 2 s" in failed.error["error"], failed.error
    assert platform.serving("migrates") == before
    assert until("the release step to be gone", lambda: not processes_with("123457"))
