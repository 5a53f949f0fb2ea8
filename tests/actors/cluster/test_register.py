"""Who is struck off the gateways' register, and when: on a real etcd, with the clock in the test's hand."""

from collections.abc import AsyncIterator

import pytest

from actors.cluster.links import gateway_prefix
from actors.cluster.register import LOOK_SECONDS, GatewayRegister
from events import failpoints
from events.log.errors import LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_wire import Listing

pytestmark = pytest.mark.servers

LOST_SECONDS = 60.0
HOME, AWAY = "gateway-0", "gateway-at-m1"
BOTH = (HOME, AWAY)


class Registered:
    """Two gateways on the register, and who tidies it."""

    def __init__(self, client: EtcdClient, namespace: str) -> None:
        self.client = client
        self.prefix = gateway_prefix(namespace)
        self.tidier = GatewayRegister(client, namespace, LOST_SECONDS)

    async def put(self, name: str) -> None:
        await self.client.put(self.prefix + name, b"{}")

    async def names(self) -> list[str]:
        return [item.key.removeprefix(self.prefix) for item in (await self.client.get_prefix(self.prefix)).items]


@pytest.fixture
async def register(etcd_settings: EtcdSettings) -> AsyncIterator[Registered]:
    async with EtcdClient(etcd_settings) as client:
        found = Registered(client, etcd_settings.namespace)
        for name in BOTH:
            await found.put(name)
        yield found


async def test_who_is_wanted_or_there_stays_however_long_it_does_not_answer(register: Registered) -> None:
    for now in (0.0, 1e6):
        assert await register.tidier.tidy(needed=BOTH, at_hand=[HOME], now=now) == []
    assert await register.names() == list(BOTH)


async def test_one_that_was_ended_on_a_machine_that_is_here_is_struck_at_once(register: Registered) -> None:
    assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=0.0) == [AWAY]
    assert await register.names() == [HOME]


async def test_one_whose_machine_has_left_is_waited_for_as_long_as_its_instances(register: Registered) -> None:
    for now in (0.0, LOST_SECONDS - 1.0):
        assert await register.tidier.tidy(needed=[HOME], at_hand=[HOME], now=now) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=[HOME], now=LOST_SECONDS) == [AWAY]
    assert await register.names() == [HOME]


async def test_a_machine_that_is_back_in_time_begins_a_new_count(register: Registered) -> None:
    assert await register.tidier.tidy(needed=[HOME], at_hand=[HOME], now=0.0) == []
    assert await register.tidier.tidy(needed=BOTH, at_hand=BOTH, now=50.0) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=[HOME], now=70.0) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=[HOME], now=70.0 + LOST_SECONDS) == [AWAY]


async def test_it_is_not_read_more_often_than_it_may_change(register: Registered) -> None:
    assert await register.tidier.tidy(needed=BOTH, at_hand=BOTH, now=0.0) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=LOOK_SECONDS / 2) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=LOOK_SECONDS) == [AWAY]


async def test_what_a_gateway_has_registered_since_then_stands(
    register: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a stale reconciler wakes between looking and striking."""
    whole = register.client.txn

    async def late(**arguments: object) -> object:
        monkeypatch.undo()
        await register.put(AWAY)
        return await whole(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(register.client, "txn", late)
    assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=0.0) == []
    assert await register.names() == list(BOTH)


async def test_who_dies_before_it_strikes_is_followed_by_one_that_does(register: Registered) -> None:
    failpoints.arm("register.strike", "once-error")
    with pytest.raises(failpoints.FailpointError):
        await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=0.0)
    again = GatewayRegister(register.client, register.prefix.split("/")[1], LOST_SECONDS)
    assert await again.tidy(needed=[HOME], at_hand=BOTH, now=0.0) == [AWAY]


async def test_an_etcd_that_does_not_answer_is_asked_again(
    register: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(prefix: str) -> Listing:
        raise LogUnavailable("etcd is away")

    with monkeypatch.context() as during:
        during.setattr(register.client, "get_prefix", away)
        assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=0.0) == []
    assert await register.tidier.tidy(needed=[HOME], at_hand=BOTH, now=LOOK_SECONDS) == [AWAY]
