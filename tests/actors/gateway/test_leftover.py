"""An Envoy that nobody drives any more is ended, and no other. Real Envoy, real locks."""

import asyncio

import pytest

from actors.gateway.envoy import EnvoyProcess, EnvoySettings
from actors.gateway.errors import GatewaySettingsError
from actors.gateway.leftover import LeftEnvoy
from actors.gateway.rundir import RunDirectory
from tests.actors.gateway.conftest import Site

pytestmark = pytest.mark.servers

SOON = 0.02


class Watch:
    """A machine's agent that looks after the site's run directory; `registered` is what etcd says."""

    def __init__(self, site: Site, *, registered: bool) -> None:
        self.registered = registered
        self.asked = 0
        self.run_dir = run = site.settings.run_dir
        log = site.settings.envoy_log
        self.envoy = EnvoyProcess(EnvoySettings(run_dir=run, log_file=log))
        self.task = asyncio.create_task(LeftEnvoy(run, log, self._is_registered, look=SOON).watch(left_seconds=0.1))

    async def _is_registered(self) -> bool:
        self.asked += 1
        return self.registered

    async def looked(self, times: int) -> bool:
        return self.asked >= times

    async def ended(self) -> bool:
        return self.envoy.pid is None

    async def let_go(self) -> bool:
        """Whether a gateway could begin: whoever ends an Envoy has the directory until a moment later."""
        directory = RunDirectory(self.run_dir)
        try:
            directory.take()
        except GatewaySettingsError:
            return False
        directory.release()
        return True


@pytest.fixture
async def watch(site):
    watches = []

    def begin(*, registered: bool) -> Watch:
        watches.append(Watch(site, registered=registered))
        return watches[-1]

    yield begin
    for one in watches:
        assert not one.task.done()
        one.task.cancel()


async def test_an_envoy_without_a_gateway_or_a_registration_is_ended(site, eventually, watch) -> None:
    await site.open(site.component("web"))
    await site.gateway.close()
    left = watch(registered=False)
    await eventually(left.ended)
    await eventually(left.let_go)


async def test_an_envoy_whose_gateway_is_only_away_goes_on(site, eventually, watch) -> None:
    await site.open(site.component("web"))
    await site.gateway.close()
    left = watch(registered=True)
    await eventually(lambda: left.looked(20))
    assert left.envoy.pid is not None
    left.registered = False
    await eventually(left.ended)


async def test_an_envoy_whose_gateway_lives_goes_on_also_before_it_has_registered(site, eventually, watch) -> None:
    await site.open(site.component("web"))
    left = watch(registered=False)
    await eventually(lambda: left.looked(20))
    assert left.envoy.pid is not None


async def test_where_there_never_was_a_gateway_there_is_nothing_to_do(site, watch) -> None:
    left = watch(registered=False)
    await asyncio.wait({left.task}, timeout=10 * SOON)
    assert left.asked == 0
    assert not site.settings.run_dir.exists()
