"""`rayfold compose --apply` against the real API: in order, and a second run does nothing twice."""

import asyncio
import os
from pathlib import Path

import pytest

from api.cli.main import main
from tests.actors.builder.conftest import write_tree
from tests.api.http.conftest import ADMIN, House

pytestmark = pytest.mark.servers

FILE = """
services:
  web:
    build: ./web
    ports: ["8000:8000"]
    depends_on: [work]
    environment: {MODE: "a b", DB_PASSWORD: swordfish}
    volumes: ["data:/data"]
    deploy: {replicas: 2}
  work:
    build: ./work
    stop_grace_period: 7s
"""
COMPONENTS = "/v1/teams/default/apps/shop/components"


@pytest.fixture
def place(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYFOLD_URL", house.url)
    monkeypatch.setenv("RAYFOLD_TOKEN", ADMIN)
    files = {"compose.yaml": FILE, "web/Procfile": "web: run\n", "work/Procfile": "web: work\n"}
    return write_tree(tmp_path / "shop", files)


async def apply(place: Path, *more: str) -> int:
    return await asyncio.to_thread(main, ["compose", os.fspath(place / "compose.yaml"), "--apply", *more])


async def releases(house: House, name: str) -> list[int]:
    nothing = await house.call("PATCH", f"{COMPONENTS}/{name}", {"stopped": False})
    seen = nothing.json["position"]  # past all that was before it
    page = (await house.get(f"{COMPONENTS}/{name}/releases?min_position={seen}")).json
    return [release["number"] for release in page["items"]]


async def test_it_is_made_in_order_and_a_second_run_makes_nothing(
    house: House, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await apply(place) == 0
    told = capsys.readouterr()
    assert told.err.index("warning: web volumes") < told.err.index("work: deploy") < told.err.index("web: deploy")
    assert "swordfish" not in told.out + told.err
    web = await house.until(f"{COMPONENTS}/web", lambda view: view["release"] == 1)
    work = await house.until(f"{COMPONENTS}/work", lambda view: view["release"] == 1)
    assert (web["scale"], web["release"], web["http"]) == (2, 1, True)
    assert (work["settings"]["grace_seconds"], work["http"]) == ("7", False)
    config = (await house.get(f"{COMPONENTS}/web/config")).json
    assert config["config"]["MODE"] == "a b" and config["secret"] == ["DB_PASSWORD"]

    assert await apply(place) == 0
    assert "left as they are: DB_PASSWORD" in capsys.readouterr().err
    assert (await releases(house, "web"), await releases(house, "work")) == ([1], [1])


async def test_it_stops_at_a_failure_and_goes_on_there(house: House, place: Path) -> None:
    house.world.fails = "pip exited with 1"
    assert await apply(place) == 6
    assert (await house.get(f"{COMPONENTS}/web")).status == 404, "what needs it was not begun"
    house.world.fails = ""
    assert await apply(place) == 0
    assert (await releases(house, "web"), await releases(house, "work")) == ([1], [1])


async def test_a_run_that_was_cut_off_is_gone_on_with(house: House, place: Path) -> None:
    house.world.may_build.clear()
    assert await apply(place, "--timeout", "1") == 7
    builds = await house.until(f"{COMPONENTS}/work/builds", lambda page: page["items"])
    again = asyncio.create_task(apply(place))
    await asyncio.sleep(0)
    house.world.release_builds()
    assert await again == 0
    assert [each["build"] for each in (await house.get(f"{COMPONENTS}/work/builds")).json["items"]] == [
        each["build"] for each in builds["items"]
    ]
    assert (await releases(house, "web"), await releases(house, "work")) == ([1], [1])


async def test_scaling_several_components_in_one_command_goes_to_each(house: House, place: Path) -> None:
    assert await apply(place) == 0
    scaled = ["ps", "scale", "web=1", "work=2", "--app", "shop"]
    assert await asyncio.to_thread(main, scaled) == 0
    await house.until(f"{COMPONENTS}/web", lambda view: view["scale"] == 1)
    await house.until(f"{COMPONENTS}/work", lambda view: view["scale"] == 2)
