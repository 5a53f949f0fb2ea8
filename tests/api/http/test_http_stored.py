"""`GET /v1/log/verify`: the log walked, told line by line, for the administrator only."""

import asyncio
import json
from typing import Any

import pytest

from api.cli.main import main
from events.log.store import StoredBatch
from tests.api.http.conftest import ADMIN, House
from tests.api.http.world import PARTITIONS

pytestmark = pytest.mark.servers


async def lines(house: House, query: str = "") -> list[dict[str, Any]]:
    answer = await house.get(f"/v1/log/verify{query}")
    assert answer.status == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def damage(house: House) -> str:
    """Flip a bit of some partition's first batch; its position."""
    number = next(n for n, kept in enumerate(house.store.partitions) if kept.bases)
    kept = house.store.partitions[number]
    first = kept.batches[0]
    kept.batches[0] = StoredBatch(0, first.revision, first.value[:-1] + bytes([first.value[-1] ^ 1]))
    return f"{number}:0"


async def test_a_whole_log_says_so_and_a_break_is_named(house: House) -> None:
    *reports, end = await lines(house)
    assert [report["partition"] for report in reports] == list(range(PARTITIONS))
    assert end == {"whole": True, "unrecognised": []}
    heads = [report["head"] for report in reports if report["head"]]
    assert (await lines(house, f"?since_head={heads[0].replace(' ', '%20')}&deep=true"))[-1]["whole"] is True
    assert (await lines(house, "?since_head=" + "0" * 64))[-1] == {"whole": False, "unrecognised": ["0" * 64]}
    position = damage(house)
    (report, end) = await lines(house, f"?partition={position[:-2]}")
    assert report["broken"].startswith(f"{position} in memory")
    assert end["whole"] is False


async def test_what_cannot_be_asked_is_refused(house: House) -> None:
    assert (await house.get(f"/v1/log/verify?partition={PARTITIONS}")).status == 404
    for query in ("?partition=-1", "?since_head=nothing", "?other=1"):
        assert (await house.get(f"/v1/log/verify{query}")).status == 422, query
    token = await house.team("guests")
    assert (await house.get("/v1/log/verify", token=token)).status == 404


async def test_the_command_line_asks_a_remote_platform(
    house: House, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFOLD_URL", house.url)
    monkeypatch.setenv("RAYFOLD_TOKEN", ADMIN)
    assert await asyncio.to_thread(main, ["log", "verify"]) == 0
    printed = capsys.readouterr()
    assert f"{PARTITIONS} partitions whole" in printed.err
    head = printed.out.splitlines()[0]
    assert await asyncio.to_thread(main, ["log", "verify", "--since-head", head]) == 0
    position = damage(house)
    assert await asyncio.to_thread(main, ["log", "verify"]) == 1
    assert f"broken at {position} in memory" in capsys.readouterr().err
