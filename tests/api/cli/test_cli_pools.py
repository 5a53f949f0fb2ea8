"""Pools, what is parked and the view of everything, from the command line."""

import json

import pytest

from api.cli.main import main
from api.http import schema_platform as p
from tests.api.cli.conftest import Asked, ContractServer


def pool(**changes: object) -> dict[str, object]:
    actor = p.PoolActorView(
        name="supervisor-0", ready=True, draining=False, detail="16 partitions", partitions=list(range(16)),
        gauges={"commands_per_second": 1234.0, "commands_in_hand": 7.0, "rss_bytes": 120_000_000.0, "cpu_seconds": 3.0},
    )  # fmt: skip
    view = p.PoolView(name="supervisor", size=1, running=1, most=16, work=0.8, reason="release night", actors=[actor])
    return view.model_copy(update=changes).model_dump(mode="json")


def page(*items: object) -> tuple[int, object]:
    return 200, {"items": list(items), "next_cursor": None}


def test_pools_are_listed_with_their_size_bounds_and_reason(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["listPools"] = page(pool(auto_least=1, auto_most=4))
    assert main(["pool"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("supervisor", "1..4", "0.8", "release night"))


def test_scaling_sends_each_size_with_the_reason_and_waits_where_told(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []

    def shown(asked: Asked) -> tuple[int, object]:
        sizes.append(len(sizes))
        return 200, pool(size=2, running=min(2, len(sizes)), moving=0 if len(sizes) > 2 else 3)

    server.answers |= {"scalePool": (202, pool(size=2)), "getPool": shown}
    assert main(["pool", "scale", "supervisor=2", "-m", "more", "--wait", "--json"]) == 0
    [asked] = server.of("scalePool")
    assert (asked.params["pool"], asked.body) == ("supervisor", {"size": 2, "reason": "more"})
    assert json.loads(capsys.readouterr().out)["running"] == 2
    assert len(sizes) == 3, "it waited until nothing moved any more"


@pytest.mark.parametrize("arguments", [["scale", "supervisor"], ["scale", "=3"], ["auto", "builder", "1-4"]])
def test_what_is_no_size_is_wrong_usage(server: ContractServer, arguments: list[str]) -> None:
    assert main(["pool", *arguments]) == 2
    assert not server.asked


def test_automatic_scaling_sends_its_bounds(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["scalePool"] = (202, pool(auto_least=1, auto_most=4))
    assert main(["pool", "auto", "supervisor", "1..4", "-m", "follow"]) == 0
    [asked] = server.of("scalePool")
    assert asked.body == {"auto": {"least": 1, "most": 4}, "reason": "follow"}


def test_top_prints_once_where_nobody_watches(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["listPools"] = page(pool())
    assert main(["top", "--once"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("supervisor-0", "ready", "16", "1234", "7"))
    assert main(["top", "--json"]) == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["actors"][0]["gauges"]["commands_in_hand"] == 7


def test_what_is_parked_is_listed_shown_and_decided_about(
    server: ContractServer, capsys: pytest.CaptureFixture[str]
) -> None:
    parked = p.ParkedView(
        by="supervisor", stream="component/ab", handler="progress", version=3, tries=3, error="KeyError: 'x'",
        behind=None, parked_at=None,
    ).model_dump(mode="json")  # fmt: skip
    decided = (202, p.Decided(stream="component/ab", position="1:2"))
    server.answers |= {
        "listParked": page(parked),
        "getParked": page(parked),
        "retryParked": decided,
        "skipParked": decided,
    }
    assert main(["parked"]) == 0
    assert main(["parked", "show", "component/ab"]) == 0
    assert "KeyError: 'x'" in capsys.readouterr().out
    assert server.of("getParked")[0].params["stream"] == "component/ab"
    assert main(["parked", "retry", "component/ab", "-m", "mended"]) == 0
    assert main(["parked", "skip", "component/ab"]) == 0
    assert server.of("retryParked")[0].body == {"stream": "component/ab", "reason": "mended"}
    assert server.of("skipParked")[0].body == {"stream": "component/ab", "reason": ""}
    assert "will be tried again" in capsys.readouterr().err
    server.answers["retryParked"] = (202, p.Decided(stream="component/ab", position=None))
    assert main(["parked", "retry", "component/ab"]) == 0
    assert "component/ab is folded by the read models" in capsys.readouterr().err
