"""What is kept, what builds are made of, and how two differ, over HTTP and from the command line."""

from pathlib import Path

import pytest

from actors.builder.artifacts import DirectoryArtifactStore, Manifest, put_bytes, put_manifest
from actors.builder.packages import Package
from actors.builder.sbom import sbom
from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"
BUILDS = f"{WEB}/builds"


async def made_of(house: House, tmp_path: Path, **versions: str) -> str:
    """A stored artifact with these npm packages; its digest."""
    store = DirectoryArtifactStore(house.data / "artifacts")
    packages = [Package(kind="npm", name=name, version=version) for name, version in versions.items()]
    bill = await put_bytes(store, sbom(packages, language="node", runtime="node20"), scratch=tmp_path)
    layer = await put_bytes(store, repr(versions).encode(), scratch=tmp_path)
    manifest = Manifest(
        language="node", runtime="node20", interpreter=None, app=layer, deps=None, processes={"web": "run"}, sbom=bill
    )
    return (await put_manifest(store, manifest, scratch=tmp_path)).digest


async def deployed(house: House, artifact: str) -> str:
    """Deploy what is built as `artifact`; the build."""
    house.world.makes = artifact
    assert (await house.ended((await house.deploy(WEB)).json["operation"]))["status"] == "succeeded"
    page = await house.get(f"{BUILDS}?limit=1")
    return str(page.json["items"][0]["build"])


async def test_a_bill_of_materials_names_the_component_and_where_it_came_from(house: House, tmp_path: Path) -> None:
    digest = await made_of(house, tmp_path, ms="2.1.3")
    build = await deployed(house, digest)
    answer = await house.get(f"{BUILDS}/{build}/sbom")
    assert answer.status == 200, answer.text
    assert answer.json["bomFormat"] == "CycloneDX"
    assert [c["purl"] for c in answer.json["components"]] == ["pkg:npm/ms@2.1.3"]
    component = answer.json["metadata"]["component"]
    assert (component["name"], component["version"]) == ("default/shop/web", digest)
    properties = {p["name"]: p["value"] for p in answer.json["metadata"]["properties"]}
    assert properties["rayfold:build"] == build


async def test_a_build_without_one_says_why(house: House, tmp_path: Path) -> None:
    house.world.fails = "no"
    failed = await house.ended((await house.deploy(WEB)).json["operation"])
    assert failed["status"] == "failed"
    build = (await house.get(BUILDS)).json["items"][0]["build"]
    answer = await house.get(f"{BUILDS}/{build}/sbom")
    assert answer.status == 404 and "made no artifact" in answer.json["detail"]
    house.world.fails = ""
    gone = await deployed(house, "0" * 64)
    answer = await house.get(f"{BUILDS}/{gone}/sbom")
    assert answer.status == 404 and "gone, pruned or damaged" in answer.json["detail"]
    assert (await house.get(f"{BUILDS}/nothing/sbom")).status == 404


async def test_two_builds_differ_by_packages_size_and_artifact(house: House, tmp_path: Path) -> None:
    first = await deployed(house, await made_of(house, tmp_path, ms="2.0.0", gone="1.0.0"))
    second = await deployed(house, await made_of(house, tmp_path, ms="2.1.3", new="1.0.0"))
    found = (await house.get(f"{BUILDS}/{first}/diff?to={second}")).json
    assert (found["before"], found["after"], found["packages_missing"]) == (first, second, "")
    assert [(p["package"], p["before"], p["after"]) for p in found["packages"]] == [
        ("pkg:npm/gone", "1.0.0", None),
        ("pkg:npm/ms", "2.0.0", "2.1.3"),
        ("pkg:npm/new", None, "1.0.0"),
    ]
    assert "artifact" in {change["path"] for change in found["changes"]}
    unknown = await deployed(house, "0" * 64)
    blind = (await house.get(f"{BUILDS}/{first}/diff?to={unknown}")).json
    assert blind["packages"] is None and "damaged" in blind["packages_missing"]
    assert (await house.get(f"{BUILDS}/{first}/diff?to=nothing")).status == 404


async def test_pruning_names_what_goes_and_has_the_disk_swept(house: House) -> None:
    for number in range(4):
        await deployed(house, f"{number}" * 64)
    asked = {"keep": 1, "reason": "the disk is full"}
    answer = await house.post(f"{WEB}/retention/prune", asked, **{"Idempotency-Key": "prune-1"})
    assert answer.status == 200, answer.text
    # v3 stays: a rollback without a number goes back to it.
    assert answer.json["releases"] == [2, 1]
    assert answer.json["artifacts"] == ["0" * 64, "1" * 64]
    assert (answer.json["freed_bytes"], answer.json["trouble"], house.parts.swept) == (5, "", 1)
    repeated = await house.post(f"{WEB}/retention/prune", asked, **{"Idempotency-Key": "prune-1"})
    assert repeated.json["releases"] == [2, 1], "a request whose answer was lost is told what it did"
    again = await house.post(f"{WEB}/retention/prune", {"keep": 1})
    assert again.json["releases"] == []
    refused = await house.post(f"{WEB}/rollbacks", {"to": 1})
    assert refused.status == 409 and "v1 was pruned" in refused.json["detail"], refused.text
    releases = await house.until(f"{WEB}/releases", lambda page: page["items"][-1]["status"] == "pruned")
    assert [release["status"] for release in releases["items"]] == ["current", "succeeded", "pruned", "pruned"]
    events = (await house.get(f"{WEB}/events?type=ReleasesPruned")).json["items"]
    assert [event["reason"] for event in events] == ["the disk is full"]


async def test_how_many_releases_are_kept_is_a_property_of_the_component(house: House) -> None:
    await deployed(house, "a" * 64)
    assert (await house.get(f"{WEB}/retention")).json["keep"] == 50
    assert (await house.call("PATCH", f"{WEB}/retention", {"keep": 2})).status == 200
    for letter in "bcd":
        await deployed(house, letter * 64)
    shown = (await house.get(f"{WEB}/retention")).json
    assert (shown["keep"], shown["releases"]) == (2, [4, 3])
    for wrong in (0, -1, 10_001, "many"):
        assert (await house.call("PATCH", f"{WEB}/retention", {"keep": wrong})).status == 422
        assert (await house.post(f"{WEB}/retention/prune", {"keep": wrong})).status == 422


async def test_a_team_is_not_told_what_went_of_others(house: House) -> None:
    await deployed(house, "a" * 64)
    made = await house.post("/v1/teams/default/tokens", {"name": "ci"})
    await house.settled(made.json["position"])
    answer = await house.post(f"{WEB}/retention/prune", {"keep": 1}, token=made.json["token"])
    assert answer.status == 200 and answer.json["freed_bytes"] is None, answer.text
