"""Ends an Envoy that was left behind: its gateway was given up while its machine was cut off, or could not drain.

Such a proxy serves a table that nobody keeps up. Knows the run directory and whether a gateway is registered, nothing
of why it is not.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from actors.gateway.envoy import EnvoyProcess, EnvoySettings
from actors.gateway.errors import GatewaySettingsError
from actors.gateway.rundir import RunDirectory
from events.failpoints import failpoint
from events.log.errors import LogError

log = structlog.get_logger("leftover")

LOOK_SECONDS = 5.0
LEFT_SECONDS = 30.0  # a gateway that is to run here has adopted its Envoy and registered by then


class LeftEnvoy:
    """The Envoy of one run directory. `registered`: whether a gateway of this machine is, at this moment."""

    def __init__(
        self, run_dir: Path, log_file: Path, registered: Callable[[], Awaitable[bool]], *, look: float = LOOK_SECONDS
    ) -> None:
        self._run_dir = run_dir
        self._envoy = EnvoyProcess(EnvoySettings(run_dir=run_dir, log_file=log_file))
        self._registered = registered
        self._look = look

    async def watch(self, left_seconds: float = LEFT_SECONDS) -> None:
        """End it whenever it has been left for so long, for ever."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        while True:
            await asyncio.sleep(self._look)
            try:
                left = self._envoy.pid is not None and not await self._registered()
                since = (since or loop.time()) if left else None
                if since is not None and loop.time() - since >= left_seconds and await self._end():
                    log.warning("a proxy that was left behind is ended", run_dir=str(self._run_dir))
            except LogError as error:
                log.info("it cannot be told whether a proxy was left behind", error=str(error))

    async def _end(self) -> bool:
        """False when a gateway has it, or has registered."""
        directory = RunDirectory(self._run_dir)
        try:
            directory.take()
        except GatewaySettingsError:
            return False
        # A gateway registers while it holds the directory only: as long as we hold it the answer stands.
        try:
            if await self._registered():
                return False
            failpoint("gateway.leftover")
            await self._envoy.stop()
            return True
        finally:
            directory.release()
