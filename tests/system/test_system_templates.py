"""A running app of two components becomes a template, travels as a file, is installed, answers, and is upgraded."""

from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers]

SECRET = "a-password-that-stays-here"


def release_steps(platform: Platform, app: str) -> list[str]:
    """The components of `app` that ran a release step, one for each time."""
    begun = platform.events(app=app, type="InstanceStarting")
    return [event["component"] for event in begun if event["body"].get("kind") == "release_step"]


def test_publish_export_import_install_and_upgrade(platform: Platform, deploy: Deploy, tmp_path: Path) -> None:
    web = apps.web("one", release_seconds=0.1)
    web["Procfile"] += "worker: exec sleep 100000\n"
    deploy("shop", web)
    database = {"name": "db", "process": "web", "http": True}
    assert platform.http("POST", "/v1/teams/default/apps/shop/components", database).status == 201
    deploy("shop", apps.web("the database"), "--component", "db")
    address = f"http://db.shop.localhost:{platform.gateway_port}/"
    platform.cli("config", "set", f"GREETING={address}", "--app", "shop")
    platform.cli("config", "set", "--secret", f"PASSWORD={SECRET}", "--app", "shop")

    publish = ("template", "publish", "shop", "--name", "shop", "--version")
    assert platform.cli(*publish, "1.0", "--generate", "web.PASSWORD").json["published"]
    file = tmp_path / "shop.tar"
    platform.cli("template", "export", "shop@1.0", "-o", str(file))
    assert SECRET.encode() not in file.read_bytes()
    assert platform.cli("template", "import", str(file), "--name", "store").json["name"] == "store"
    platform.cli("template", "install", "store", "--app", "branch")

    told = platform.serving("branch")
    assert (told["text"], told["greeting"]) == ("one", address.replace("db.shop", "db.branch"))
    assert platform.serving("db.branch")["text"] == "the database"
    assert release_steps(platform, "branch") == ["web"], "one of the components with the same artifact runs it"

    platform.cli("ps", "scale", "web=2", "--app", "branch")
    deploy("shop", web | {"app.py": apps.web("two")["app.py"]})
    platform.cli("template", "publish", "shop", "--name", "store", "--version", "2.0", "--require", "web.PASSWORD")
    seen = platform.cli("template", "upgrade", "branch", "--dry-run").json
    assert {f"{c['component']}.{c['attribute']}": c["action"] for c in seen["changes"]} == {
        "web.artifact": "change",
        "worker.artifact": "change",
        "web.scale": "keep",
    }
    assert platform.serving("branch")["text"] == "one"
    platform.cli("template", "upgrade", "branch", "--to", "2.0")

    until("the new version to serve", lambda: platform.serving("branch")["text"] == "two")
    assert platform.get(platform.component("branch"))["scale"] == 2
    assert release_steps(platform, "branch") == ["web", "web"]
    assert platform.serving("db.branch")["text"] == "the database"
    for app in ("shop", "branch"):
        platform.ended(platform.http("DELETE", f"/v1/teams/default/apps/{app}").json["operation"])
