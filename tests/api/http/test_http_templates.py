"""Application templates over HTTP: published from a running app, installed, upgraded, carried in a file."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from actors.builder.artifacts import DirectoryArtifactStore, Manifest, put_bytes, put_manifest
from api.http.handlers import template_installs
from events.model.base import service_id_of
from tests.actors.templates.test_package import layer, plain
from tests.api.http.conftest import ADMIN, Answer, House

pytestmark = pytest.mark.servers

TEAM = "/v1/teams/default"
TEMPLATES = f"{TEAM}/templates"
SECRET = "hunter2-and-more"


async def artifact(house: House, tmp_path: Path, text: str) -> str:
    store = DirectoryArtifactStore(house.data / "artifacts")
    app = await put_bytes(store, layer(plain("app.py", text.encode())), scratch=tmp_path)
    manifest = Manifest(
        language="python", runtime="python3.11", interpreter=None, app=app, deps=None, processes={"web": "run"}
    )
    return (await put_manifest(store, manifest, scratch=tmp_path)).digest


async def done(house: House, answer: Answer) -> None:
    assert answer.status in (200, 202), answer.text
    if answer.json["operation"]:
        assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"


@pytest.fixture
async def shop(house: House, tmp_path: Path) -> House:
    """An app of a database and a web that is told its address; they share a secret."""
    created = await house.post(f"{TEAM}/apps", {"name": "shop"})
    await house.settled(created.json["position"])
    told = {"db": dict[str, str](), "web": {"DATABASE": "http://db.shop.localhost:8080/", "GREETING": "hello"}}
    for name, config in told.items():
        made = await house.post(f"{TEAM}/apps/shop/components", {"name": name, "process": "web", "http": True})
        assert made.status == 201, made.text
        path = f"{TEAM}/apps/shop/components/{name}"
        house.world.makes = await artifact(house, tmp_path, name)
        body = {"set": config, "secret": {"PASSWORD": SECRET}}
        await done(house, await house.call("PATCH", path + "/config", body))
        await done(house, await house.deploy(path))
    job = {"name": "tidy", "schedule": "@daily", "command": "tidy"}
    await done(house, await house.post(f"{TEAM}/apps/shop/components/db/crons", job))
    return house


async def publish(house: House, version: str = "1.0", **more: object) -> Answer:
    body = {"name": "shop", "version": version, "app": "shop", "description": "a shop", **more}
    return await house.post(TEMPLATES, body)


async def install(house: House, app: str = "branch", **more: Any) -> Answer:
    headers = {"Idempotency_Key": more.pop("key")} if "key" in more else {}
    body = {"app": app, "set": {"db.PASSWORD": "another"}, **more}
    return await house.post(f"{TEMPLATES}/shop/installs", body, **headers)


async def all_done(house: House, answer: Answer) -> None:
    assert answer.status in (200, 202) and answer.json["finished"], answer.text
    for step in answer.json["operations"]:
        assert (await house.ended(step["operation"]))["status"] == "succeeded"


async def config(house: House, app: str, component: str) -> dict[str, str]:
    found = await house.get(f"{TEAM}/apps/{app}/components/{component}/config")
    return dict(found.json["config"])


async def test_a_running_app_is_published_without_its_secrets(shop: House) -> None:
    first = await publish(shop)
    assert (first.status, first.json["published"]) == (200, True), first.text
    again = await publish(shop)
    assert again.json["published"] is False and again.json["digest"] == first.json["digest"]
    other = await publish(shop, description="something else")
    assert (other.status, other.json["code"]) == (409, "conflict")

    shown = await shop.get(f"{TEMPLATES}/shop/versions/1.0")
    db, web = shown.json["components"]
    assert (db["name"], web["needs"], db["crons"]) == ("db", ["db"], ["tidy"])
    assert db["variables"]["PASSWORD"]["required"] and web["variables"]["PASSWORD"]["same_as"] == "db.PASSWORD"
    assert SECRET not in shown.text and "fingerprint" not in shown.text
    assert web["variables"]["DATABASE"]["value"] == "http://${rayfold:address:db}/"
    assert [v["version"] for v in (await shop.get(f"{TEMPLATES}/shop/versions")).json["items"]] == ["1.0"]
    assert [v["name"] for v in (await shop.get(TEMPLATES)).json["items"]] == ["shop"]


async def test_an_installation_makes_everything_in_order_with_addresses_of_its_own(shop: House) -> None:
    await publish(shop)

    missing = await install(shop, set={})
    assert (missing.status, missing.json["code"]) == (422, "values_missing")
    assert (await shop.get(f"{TEAM}/apps/branch")).status == 404
    assert (await install(shop, set={"db.PASSWORD": "x", "db.NO": "y"})).status == 422
    answer = await install(shop)
    await all_done(shop, answer)

    assert [step["component"] for step in answer.json["operations"]] == ["db", "web"]
    web = await config(shop, "branch", "web")
    assert web["DATABASE"] == "http://db.branch.localhost:8080/" and web["GREETING"] == "hello"
    assert web["PASSWORD"] == (await config(shop, "branch", "db"))["PASSWORD"] != ""
    assert web["PASSWORD"].startswith("••••")
    crons = await shop.get(f"{TEAM}/apps/branch/components/db/crons")
    assert [job["name"] for job in crons.json["items"]] == ["tidy"]
    assert "another" not in (await shop.get("/v1/export?app=branch&team=default")).text


async def test_an_installation_that_died_anywhere_goes_on_and_doubles_nothing(
    shop: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(shop, generated=["db.PASSWORD"])
    died: list[str] = []

    class Died(Exception):
        pass

    def die_once(name: str) -> None:
        if name.startswith("template.") and name not in died:
            died.append(name)
            raise Died(name)

    monkeypatch.setattr(template_installs, "failpoint", die_once)
    for _ in range(4):
        # Another key each time: whoever asks again need not know of the first attempt.
        assert (await install(shop, set={})).status == 500
    answer = await install(shop, set={})
    await all_done(shop, answer)

    assert died == ["template.app-made", "template.installed", "template.step-db", "template.step-web"]
    for component in ("db", "web"):
        path = f"{TEAM}/apps/branch/components/{component}"
        await shop.until(f"{path}/config", lambda found: "PASSWORD" in found["config"])
        releases = await shop.get(f"{path}/releases")
        assert [release["number"] for release in releases.json["items"]] == [1]
    orders = {order.service_id: order.config["PASSWORD"] for order in shop.world.ordered if "PASSWORD" in order.config}
    db, web = (service_id_of("default", "branch", name) for name in ("db", "web"))
    assert orders[db] == orders[web] and len(orders[db]) > 30


async def test_the_same_key_gets_the_same_operations(shop: House) -> None:
    await publish(shop)
    first = await install(shop, key="once")
    await all_done(shop, first)
    second = await install(shop, key="once")
    assert second.status == 200 and second.json["operations"] == []


async def test_an_app_of_ones_own_is_left_alone(shop: House) -> None:
    await publish(shop)
    assert (await install(shop, app="shop")).status == 409


async def test_an_upgrade_shows_first_keeps_what_is_the_users_and_names_conflicts(shop: House, tmp_path: Path) -> None:
    await publish(shop)
    await all_done(shop, await install(shop))
    web = f"{TEAM}/apps/branch/components/web"
    await done(shop, await shop.call("PATCH", web + "/config", {"set": {"GREETING": "mine", "OWN": "1"}}))
    shop.world.makes = await artifact(shop, tmp_path, "web two")
    source = f"{TEAM}/apps/shop/components/web"
    await done(shop, await shop.deploy(source))
    await done(shop, await shop.call("PATCH", source, {"scale": 2}))
    await done(shop, await shop.call("PATCH", source + "/config", {"set": {"GREETING": "good day"}}))
    assert (await publish(shop, "2.0")).status == 200

    preview = await shop.get(f"{TEAM}/apps/branch/upgrade")
    assert (preview.json["from"], preview.json["to"]) == ("1.0", "2.0"), preview.text
    seen = {f"{c['component']}.{c['attribute']}": c["action"] for c in preview.json["changes"]}
    assert seen == {
        "web.artifact": "change", "web.scale": "change", "web.config.GREETING": "conflict", "web.config.OWN": "keep",
    }  # fmt: skip
    await all_done(shop, await shop.post(f"{TEAM}/apps/branch/upgrade", {}))

    now = await config(shop, "branch", "web")
    assert (now["GREETING"], now["OWN"]) == ("mine", "1")
    component = await shop.get(web)
    assert component.json["scale"] == 2
    releases = await shop.get(web + "/releases")
    assert releases.json["items"][0]["artifact"] == shop.world.makes
    assert len(releases.json["items"]) == 3
    after = await shop.get(f"{TEAM}/apps/branch/upgrade?take_theirs=true")
    assert {c["action"] for c in after.json["changes"]} == {"keep"}


async def test_an_upgrade_that_died_anywhere_goes_on(
    shop: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(shop)
    await all_done(shop, await install(shop))
    for name in ("db", "web"):
        shop.world.makes = await artifact(shop, tmp_path, f"{name} two")
        await done(shop, await shop.deploy(f"{TEAM}/apps/shop/components/{name}"))
    assert (await publish(shop, "2.0")).status == 200
    died: list[str] = []

    def die_once(name: str) -> None:
        if name.startswith("template.") and name not in died:
            died.append(name)
            raise RuntimeError(name)

    monkeypatch.setattr(template_installs, "failpoint", die_once)
    for _ in range(3):
        assert (await shop.post(f"{TEAM}/apps/branch/upgrade", {})).status == 500
    assert (await shop.get(f"{TEAM}/apps/branch/upgrade")).json["from"] == "1.0"
    await all_done(shop, await shop.post(f"{TEAM}/apps/branch/upgrade", {}))

    assert died == ["template.step-db", "template.step-web", "template.upgraded"]
    assert (await shop.get(f"{TEAM}/apps/branch/upgrade")).json["from"] == "2.0"
    for name in ("db", "web"):
        releases = await shop.get(f"{TEAM}/apps/branch/components/{name}/releases")
        assert [release["number"] for release in releases.json["items"]] == [2, 1]


async def test_an_app_that_was_destroyed_is_installed_anew(shop: House) -> None:
    await publish(shop)
    await all_done(shop, await install(shop))
    gone = await shop.call("DELETE", f"{TEAM}/apps/branch")
    assert (await shop.ended(gone.json["operation"]))["status"] == "succeeded"

    again = await install(shop)

    await all_done(shop, again)
    assert [step["component"] for step in again.json["operations"]] == ["db", "web"]


async def test_only_what_came_from_a_template_is_upgraded(shop: House) -> None:
    assert (await shop.get(f"{TEAM}/apps/shop/upgrade")).json["code"] == "conflict"
    assert (await shop.get(f"{TEAM}/apps/nothing/upgrade")).status == 404


async def exported(house: House) -> bytes:
    url = f"{house.url}{TEMPLATES}/shop/versions/1.0/file"
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with house.session.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-tar"
        return await response.read()


async def imported(house: House, team: str, data: bytes, **more: str) -> Answer:
    digest = hashlib.sha256(data).hexdigest()
    put = await house.call("PUT", f"/v1/teams/{team}/uploads/{digest}", data=data)
    assert put.status in (200, 201), put.text
    return await house.post(f"/v1/teams/{team}/template-imports", {"upload": digest, **more})


async def test_a_file_brings_all_that_is_needed_to_another_team(shop: House) -> None:
    await publish(shop)
    data = await exported(shop)
    assert SECRET.encode() not in data
    store = DirectoryArtifactStore(shop.data / "artifacts")
    before = {blob.digest for blob in await store.blobs()}
    for digest in before:
        await store.delete(digest)
    await shop.team("other")

    answer = await imported(shop, "other", data)

    assert answer.status == 200 and answer.json["published"], answer.text
    assert {blob.digest for blob in await store.blobs()} == before
    assert (await imported(shop, "other", data)).json["published"] is False
    renamed = await imported(shop, "other", data, name="store", version="9")
    assert (renamed.json["name"], renamed.json["version"]) == ("store", "9")
    made = await shop.post("/v1/teams/other/templates/shop/installs", {"app": "a", "set": {"db.PASSWORD": "x"}})
    await all_done(shop, made)
    web = await shop.get("/v1/teams/other/apps/a/components/web/config")
    assert web.json["config"]["DATABASE"] == "http://db.a--other.localhost:8080/"


async def test_a_hostile_file_is_refused_and_nothing_of_it_is_kept(shop: House) -> None:
    await publish(shop)
    data = bytearray(await exported(shop))
    store = DirectoryArtifactStore(shop.data / "artifacts")
    before = {blob.digest for blob in await store.blobs()}
    data[data.index(b"blobs/") + 515] ^= 1

    refused = await imported(shop, "default", bytes(data), name="evil")

    assert (refused.status, refused.json["code"]) == (422, "package_invalid")
    assert "Traceback" not in refused.text and str(shop.data) not in refused.text
    assert {blob.digest for blob in await store.blobs()} == before
    assert (await shop.get(f"{TEMPLATES}/evil/versions")).status == 404
    assert list((shop.data / "artifacts" / "imports").iterdir()) == []


async def test_other_teams_see_nothing(shop: House) -> None:
    await publish(shop)
    token = await shop.team("other")
    for path in (TEMPLATES, f"{TEMPLATES}/shop/versions/1.0", f"{TEMPLATES}/shop/versions/1.0/file"):
        assert (await shop.get(path, token=token)).status == 404
    assert (await shop.get("/v1/replay/template/default.shop", token=token)).status == 404
    assert (await shop.get("/v1/teams/other/templates/shop/versions/1.0", token=token)).status == 404


async def test_a_removed_version_is_gone_and_its_apps_go_on(shop: House) -> None:
    await publish(shop)
    await all_done(shop, await install(shop))
    path = f"{TEMPLATES}/shop/versions/1.0"
    removed = await shop.call("DELETE", path)
    assert removed.status == 200, removed.text
    await shop.settled(removed.json["position"])

    assert (await shop.get(path)).status == 404
    assert (await shop.call("DELETE", path)).status == 404
    assert (await publish(shop, "2.0")).status == 200
    preview = await shop.get(f"{TEAM}/apps/branch/upgrade")
    assert preview.json["changes"] == [], preview.text
