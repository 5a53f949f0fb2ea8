"""A rollout waits for every registered gateway, and for none that was taken off the register meanwhile."""

from typing import Any

import pytest

from actors.cluster import links as module
from actors.cluster.directory import ActorUnreachable
from actors.cluster.links import GatewayLinks


class Gateways:
    """A register and the gateways on it, as the links see both: `away` ones never answer, `slow` ones say no once."""

    def __init__(self, *names: str, away: str = "", slow: str = "", looks: int = 3) -> None:
        self.names = list(names)
        self.away = away
        self.slow = {slow}
        self.looks = looks

    async def now(self) -> tuple[str, ...]:
        """The one that is away is struck off at the look that `looks` counts down to."""
        self.looks -= 1
        if self.looks == 0 and self.away in self.names:
            self.names.remove(self.away)
        return tuple(self.names)

    async def call(self, actor: str, method: str, *_: object, seconds: float | None = None) -> Any:
        if actor == self.away:
            raise ActorUnreachable(f"{actor} is away")
        if actor in self.slow:
            self.slow.remove(actor)
            return False
        return True


def links(gateways: Gateways) -> GatewayLinks:
    return GatewayLinks(directory=gateways, registry=gateways)  # type: ignore[arg-type] # the methods it uses


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.001)


async def test_all_that_are_registered_have_applied_it() -> None:
    gateways = Gateways("gateway-0", "gateway-at-m1", slow="gateway-at-m1")
    assert await links(gateways).wait_applied(0, 1, "web") == ("gateway-0", "gateway-at-m1")
    assert gateways.slow == set()


async def test_one_that_is_struck_off_is_not_waited_for_and_is_not_said_to_have_applied_it() -> None:
    gateways = Gateways("gateway-0", "gateway-at-m1", away="gateway-at-m1")
    assert await links(gateways).wait_applied(0, 1, "web") == ("gateway-0",)
    assert gateways.looks <= 0
