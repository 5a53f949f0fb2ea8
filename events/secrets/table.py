"""Where wrapped keys are kept: what the keyring needs of it, in etcd and in memory.

Knows keys by team and never unwraps one; every write is a compare-and-swap.
"""

from typing import NamedTuple, Protocol

import msgspec

from events.log.errors import EtcdRefused
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import ModRevisionIs, Put


class TeamKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One data key, wrapped. Once destroyed, only who did it, when and why is left. Times: microseconds UTC."""

    id: str
    created_at: int
    master: str = ""
    wrapped: bytes = b""
    destroyed_at: int = 0
    destroyed_by: str = ""
    reason: str = ""


class TeamKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Every key a team ever had, oldest first; the last one seals, unless it was destroyed."""

    keys: tuple[TeamKey, ...] = ()

    def active(self) -> TeamKey | None:
        """The key that seals what is set now."""
        return self.keys[-1] if self.keys and not self.keys[-1].destroyed_at else None

    def find(self, key_id: str) -> TeamKey | None:
        return next((key for key in self.keys if key.id == key_id), None)


class Kept(NamedTuple):
    """A team's keys as stored; `revision` 0: nothing is."""

    keys: TeamKeys
    revision: int


class Fence(NamedTuple):
    """The id of the master key that new wrappings must use; `revision` 0: none was ever used."""

    master: str
    revision: int


class KeyTable(Protocol):
    """Linearizable. Raises LogUnavailable, after which a write may or may not have happened: look again."""

    async def get(self, team: str) -> Kept: ...

    async def teams(self) -> dict[str, Kept]:
        """Every team that has or had a key."""
        ...

    async def replace(self, team: str, keys: TeamKeys, *, at: Kept, under: Fence) -> bool:
        """Write if neither the team's keys nor the fence moved since `at` and `under` were read; else nothing."""
        ...

    async def fence(self) -> Fence: ...

    async def move_fence(self, master: str, *, at: Fence) -> bool:
        """Name another master key, if the fence has not moved since `at`."""
        ...

    async def forget_history(self) -> None:
        """Have the store drop every older version of what it holds now."""
        ...


def keys_prefix(namespace: str) -> str:
    """Under it, each team's wrapped keys, by name."""
    return f"/{namespace}/keys/"


def fence_key(namespace: str) -> str:
    """The id of the master key in use."""
    return f"/{namespace}/master_key"


class EtcdKeyTable:
    """`/{ns}/keys/{team}` and the fence `/{ns}/master_key` in etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._prefix = keys_prefix(client.settings.namespace)
        self._fence = fence_key(client.settings.namespace)

    async def get(self, team: str) -> Kept:
        found = await self._client.get(self._prefix + team)
        return Kept(_decoded(found.value), found.mod_revision) if found else Kept(TeamKeys(), 0)

    async def teams(self) -> dict[str, Kept]:
        listing = await self._client.get_prefix(self._prefix)
        return {kv.key.removeprefix(self._prefix): Kept(_decoded(kv.value), kv.mod_revision) for kv in listing}

    async def replace(self, team: str, keys: TeamKeys, *, at: Kept, under: Fence) -> bool:
        key = self._prefix + team
        unmoved = [ModRevisionIs(key, at.revision), ModRevisionIs(self._fence, under.revision)]
        return (await self._client.txn(when=unmoved, then=[Put(key, msgspec.json.encode(keys))])).succeeded

    async def fence(self) -> Fence:
        found = await self._client.get(self._fence)
        return Fence(found.value.decode(), found.mod_revision) if found else Fence("", 0)

    async def move_fence(self, master: str, *, at: Fence) -> bool:
        return await self._client.compare_and_put(self._fence, master.encode(), mod_revision=at.revision)

    async def forget_history(self) -> None:
        try:
            await self._client.compact(await self._client.revision())
        except EtcdRefused as error:
            if "compacted" not in str(error):
                raise  # somebody else compacted up to here or further: then it is done


class MemoryKeyTable:
    """The same in this process's memory. `history` is every version that a real store would still hold."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._fence = Fence("", 0)
        self._revision = 0
        self.history: list[tuple[str, TeamKeys]] = []

    async def get(self, team: str) -> Kept:
        return self._kept.get(team, Kept(TeamKeys(), 0))

    async def teams(self) -> dict[str, Kept]:
        return dict(self._kept)

    async def replace(self, team: str, keys: TeamKeys, *, at: Kept, under: Fence) -> bool:
        if (await self.get(team)).revision != at.revision or self._fence.revision != under.revision:
            return False
        self._revision += 1
        self._kept[team] = Kept(keys, self._revision)
        self.history.append((team, keys))
        return True

    async def fence(self) -> Fence:
        return self._fence

    async def move_fence(self, master: str, *, at: Fence) -> bool:
        if self._fence.revision != at.revision:
            return False
        self._revision += 1
        self._fence = Fence(master, self._revision)
        return True

    async def forget_history(self) -> None:
        self.history = [(team, kept.keys) for team, kept in self._kept.items()]


def _decoded(value: bytes) -> TeamKeys:
    return msgspec.json.decode(value, type=TeamKeys)
