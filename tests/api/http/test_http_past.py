"""Any past state of a stream can be shown, and two of them compared."""

import pytest

from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"


async def test_a_component_is_shown_as_it_was_and_two_moments_are_compared(house: House) -> None:
    made = await house.deploy(WEB)
    first = await house.ended(made.json["operation"])
    before = (await house.get(f"{WEB}/config?min_position={first['position']}")).json["version"]
    changed = await house.call("PATCH", f"{WEB}/config", {"set": {"COLOUR": "red"}})
    await house.ended(changed.json["operation"])
    stream = made.json["stream"]

    now = (await house.get(f"/v1/replay/{stream}")).json
    assert now["state"]["spec"]["config"] == {"COLOUR": "red"}
    assert now["team"] == "default"
    then = (await house.get(f"/v1/replay/{stream}?version={before}")).json
    assert (then["version"], then["state"]["spec"]["config"]) == (before, {})
    named = (await house.get("/v1/replay/shop/web")).json
    assert named == now
    for query in (f"at={then['at']}", f"offset={then['position'].split(':')[1]}"):
        assert (await house.get(f"/v1/replay/{stream}?{query}")).json["state"] == then["state"]
    nothing = (await house.get(f"/v1/replay/{stream}?at=2001-01-01")).json
    assert (nothing["version"], nothing["state"]["status"]) == (0, "absent")

    diff = (await house.get(f"/v1/diff/{stream}?from=v{before}")).json
    assert (diff["from_version"], diff["to_version"]) == (before, now["version"])
    found = {c["path"]: (c["before"], c["after"]) for c in diff["changes"]}
    assert found["spec.config.COLOUR"] == (None, "red")
    assert found["current"] == (1, 2)
    same = (await house.get(f"/v1/diff/{stream}?from={then['position']}&to=v{before}")).json
    assert same["changes"] == []


async def test_what_cannot_be_shown_says_why(house: House) -> None:
    for path, status in (
        ("/v1/replay/component/0123456789abcdef", 404),
        ("/v1/replay/nothing/x", 404),
        ("/v1/replay/team/default?at=soon", 422),
        ("/v1/replay/team/default?version=1&offset=1", 422),
        ("/v1/diff/team/default", 422),
        ("/v1/diff/team/default?from=zzz", 422),
        ("/v1/replay/team/default?version=99", 422),
        ("/v1/replay/team/%00", 422),
    ):
        assert (await house.get(path)).status == status, path
    assert (await house.get("/v1/replay/team/default")).json["state"]["name"] == "default"
