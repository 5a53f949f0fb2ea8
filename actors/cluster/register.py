"""Takes off the gateways' register what nobody has to wait for any more: a level, looked at again and again.

A gateway registers itself and leaves by itself when it has drained; this is for those that no longer can. Knows names
and their revisions in etcd, not what makes a gateway wanted.
"""

from collections.abc import Collection

import structlog

from actors.cluster.links import gateway_prefix
from events.failpoints import failpoint
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import Delete, KeyValue, ModRevisionIs

log = structlog.get_logger("register")

LOOK_SECONDS = 1.0


class GatewayRegister:
    """`lost_seconds`: a gateway whose machine has left is waited for that long, for its proxy may be serving still."""

    def __init__(self, client: EtcdClient, namespace: str, lost_seconds: float) -> None:
        self._client = client
        self._prefix = gateway_prefix(namespace)
        self._lost_seconds = lost_seconds
        self._missing_since: dict[str, float] = {}
        self._looked_at = float("-inf")

    async def tidy(self, *, needed: Collection[str], at_hand: Collection[str], now: float) -> list[str]:
        """Strike out who is not `needed` (wanted, or there): at once if its machine is `at_hand`, since it was ended on
        purpose, else once it has been missing for long enough. `now` in seconds. Returns the names."""
        if now - self._looked_at < LOOK_SECONDS:
            return []
        self._looked_at = now
        try:
            registered = (await self._client.get_prefix(self._prefix)).items
            return [name for item in registered if (name := await self._strike(item, needed, at_hand, now))]
        except LogError as error:
            log.info("the register of gateways cannot be looked at", error=str(error))
            return []

    async def _strike(self, item: KeyValue, needed: Collection[str], at_hand: Collection[str], now: float) -> str:
        name = item.key.removeprefix(self._prefix)
        if name in needed:
            self._missing_since.pop(name, None)
            return ""
        since = self._missing_since.setdefault(name, now)
        if name not in at_hand and now - since < self._lost_seconds:
            return ""
        failpoint("register.strike")
        # Only the registration that was looked at: one that a gateway has made since then stands.
        found = await self._client.txn(when=[ModRevisionIs(item.key, item.mod_revision)], then=[Delete(item.key)])
        self._missing_since.pop(name, None)
        if not found.succeeded:
            return ""
        log.warning("a gateway that is gone is not waited for any more", gateway=name)
        return name
