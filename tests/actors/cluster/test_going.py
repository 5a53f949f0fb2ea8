"""An actor that was told to go and is wanted again: it goes to the end, and begins anew."""

from typing import Any

import msgspec
import pytest

from actors.cluster import reconciler as module
from actors.cluster.directory import ActorUnreachable
from actors.cluster.pools import Pool
from actors.cluster.reconciler import Reconciler
from actors.cluster.shell import Health
from tests.actors.cluster.test_machines import SETTINGS

POOL = Pool(name="builder", actor="x:Y", most=8)
NAME = "builder-1"


class Going:
    """An actor, as a directory finds it, that has `left` something to do before it has gone."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.going = True

    async def call(self, actor: str, method: str, *, seconds: float | None = None) -> Any:
        if method == "health":
            return Health(name=actor, pid=1, ready=True, going=self.going)
        assert method == "drain"
        self.left -= 1
        return self.left <= 0


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Who was ended, and whether for good."""
    found: list[tuple[str, bool]] = []
    monkeypatch.setattr(module, "end_actor", lambda name, *, for_good=True: found.append((name, for_good)))
    monkeypatch.setattr(module, "ensure_actor", lambda *_, **__: None)
    return found


def reconciler_of(actor: object) -> Reconciler:
    made = Reconciler("reconciler", msgspec.json.encode(SETTINGS), msgspec.json.encode([POOL]))
    made._directory = actor  # type: ignore[assignment] # its one method
    return made


async def test_it_is_ended_once_it_has_gone_and_started_anew(ended: list[tuple[str, bool]]) -> None:
    actor = Going(left=2)
    reconciler = reconciler_of(actor)
    await reconciler._see_to(POOL, NAME)
    assert ended == [], "it has something to do yet"
    assert NAME in reconciler._draining and NAME not in reconciler._seen
    await reconciler._see_to(POOL, NAME)
    assert ended == [(NAME, False)]

    actor.going = False
    await reconciler._see_to(POOL, NAME)
    assert NAME in reconciler._seen and reconciler._draining == {}


async def test_one_that_does_not_get_there_is_ended_when_its_time_is_over(
    ended: list[tuple[str, bool]],
) -> None:
    reconciler = reconciler_of(Going(left=1000))
    await reconciler._see_to(POOL, NAME)
    reconciler._draining[NAME] -= POOL.drain_seconds + 1
    await reconciler._see_to(POOL, NAME)
    assert ended == [(NAME, False)]


async def test_one_that_dies_meanwhile_is_no_longer_going(ended: list[tuple[str, bool]]) -> None:
    class Gone(Going):
        async def call(self, actor: str, method: str, *, seconds: float | None = None) -> Any:
            raise ActorUnreachable("gone")

    reconciler = reconciler_of(Going(left=1000))
    await reconciler._see_to(POOL, NAME)
    reconciler._directory = Gone(left=0)  # type: ignore[assignment]
    await reconciler._see_to(POOL, NAME)
    assert reconciler._draining == {} and ended == []
