"""A whole platform with a container engine: a Dockerfile and an image go live, are changed and rolled back."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.containers.engine import HOME_LABEL, INSTANCE_LABEL
from tests.container_engine import BUSYBOX, Engine
from tests.system import apps
from tests.system.platform import Platform, until

pytestmark = [pytest.mark.system, pytest.mark.servers, pytest.mark.root, pytest.mark.long]

SERVER = """\
FROM {base}
RUN mkdir -p /www && echo {text} > /www/index.html
EXPOSE 8000
CMD trap 'exit 0' TERM; httpd -f -h /www -p 8000 & wait
"""


@pytest.fixture
def platform(container_engine: Engine) -> Iterator[Platform]:
    data = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    data.chmod(0o711)
    (data / "config.toml").write_text(
        f'[containers]\nengine = "{container_engine.address}"\nregistry = "{container_engine.registry}/apps"\n'
    )
    platform = Platform(data)
    try:
        platform.up()
        yield platform
        print(platform.what_it_said())
    finally:
        platform.down()
        for process in platform.processes():
            Platform.end(process.pid)
    shutil.rmtree(data)


def test_from_a_dockerfile_to_an_answer_and_back(platform: Platform, container_engine: Engine, tmp_path: Path) -> None:
    base = f"{container_engine.registry}/{BUSYBOX}"

    def deploy(text: str) -> None:
        files = {"Dockerfile": SERVER.format(base=base, text=text)}
        platform.cli("deploy", str(apps.write(tmp_path / text, files)), "--app", "boxed")

    def says(text: str) -> None:
        until(f"the app to say {text}", lambda: platform.visit("boxed").text.strip() == text)

    def running() -> int:
        with container_engine.client() as client:
            found = client.containers(filters={"label": [HOME_LABEL, INSTANCE_LABEL]})
        return len(found)

    deploy("one")
    says("one")
    deploy("two")
    says("two")
    until("the old container to be gone", lambda: running() == 1)
    platform.cli("rollback", "--app", "boxed")
    says("one")

    build = platform.get(platform.component("boxed", "builds?limit=1"))["items"][0]
    assert "Dockerfile" in build["detected"]
    with container_engine.client() as client:
        pinned = client.containers(filters={"label": [INSTANCE_LABEL]})[0]["Image"]
    assert "@sha256:" in pinned
    platform.cli("deploy", pinned, "--app", "taken")
    until("the image taken as it is to answer", lambda: platform.visit("taken").text.strip() == "one")

    platform.ended(platform.http("DELETE", "/v1/teams/default/apps/boxed").json["operation"])
    until("its container to be gone", lambda: running() == 1)
