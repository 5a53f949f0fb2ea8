"""Seals and opens values with teams' data keys, makes and destroys those keys, and changes the master key under them.

Keeps no key in memory between two calls, so that what was destroyed or changed elsewhere counts at once. Must not know
which event holds a value, nor what an application does with it.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from events.clock import now_micros
from events.failpoints import failpoint
from events.secrets.cipher import DataKey, MasterKey, Place, new_id, new_key
from events.secrets.errors import KeyDestroyed, MasterKeyUnusable, SealBroken
from events.secrets.master import read_masters
from events.secrets.sealed import Sealed
from events.secrets.table import Fence, KeyTable, TeamKey, TeamKeys

_replace = msgspec.structs.replace


class Keyring:
    """Every method raises LogUnavailable while the table is away, and may then be repeated; none blocks the loop."""

    def __init__(self, *, table: KeyTable, master_file: Path, clock: Callable[[], int] = now_micros) -> None:
        self._table = table
        self._master_file = master_file
        self._clock = clock

    # --- values -------------------------------------------------------------------------------------------------------

    async def seal_all(self, team: str, stream: str, values: Mapping[str, str]) -> dict[str, str]:
        """The sealed texts of `values` by name, for their place in `stream`; makes the team's key if it has none.

        Raises MasterKeyUnusable, SealBroken.
        """
        if not values:
            return {}
        key = await self._sealing_key(team)
        return {name: key.seal(text, Place(team=team, stream=stream, name=name)) for name, text in values.items()}

    async def open_all(self, team: str, stream: str, values: Mapping[str, str]) -> dict[str, str]:
        """`values` with every sealed one in clear; what is not sealed stays.

        Raises KeyDestroyed, SealBroken, MasterKeyUnusable, each naming the value's name and never the value.
        """
        sealed = {name: parsed for name, text in values.items() if (parsed := Sealed.parse(text)) is not None}
        if not sealed:
            return dict(values)
        kept, masters = await self._table.get(team), await self._masters()
        opened = dict(values)
        for name, value in sealed.items():
            if value.team != team:
                raise SealBroken(f"{name}: expected a value sealed for team {team}, found one of team {value.team}")
            key = _unwrapped(_standing(kept.keys, value.key_id, team, name), team, masters)
            opened[name] = key.open(value, Place(team=team, stream=stream, name=name))
        return opened

    async def _sealing_key(self, team: str) -> DataKey:
        while True:
            kept = await self._table.get(team)
            active = kept.keys.active()
            if active is not None:
                return _unwrapped(active, team, await self._masters())
            fence = await self._entered()
            made = self._wrapped(new_id(), new_key(), team, (await self._current(fence)))
            failpoint("secrets.before-key-made")
            # Of two that make a key at once, one loses the comparison, reads again and uses the other's.
            if await self._table.replace(team, TeamKeys(keys=(*kept.keys.keys, made)), at=kept, under=fence):
                failpoint("secrets.key-made")

    def _wrapped(self, key_id: str, key: bytes, team: str, master: MasterKey) -> TeamKey:
        wrapped = master.wrap(key, team, key_id)
        return TeamKey(id=key_id, created_at=self._clock(), master=master.id, wrapped=wrapped)

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def keys(self, team: str) -> TeamKeys:
        """What is known of a team's keys; no key itself can be had."""
        return (await self._table.get(team)).keys

    async def openable(self, team: str) -> frozenset[str]:
        """The ids of a team's keys that the master key here opens."""
        kept = (await self._table.get(team)).keys
        try:
            masters = await self._masters()
        except MasterKeyUnusable:
            return frozenset()
        return frozenset(key.id for key in kept.keys if not key.destroyed_at and key.master in masters)

    async def destroy(self, team: str, key_id: str, *, by: str, reason: str) -> None:
        """Destroy a data key for good, its older versions in the store included; destroyed already is done."""
        while True:
            kept = await self._table.get(team)
            key = kept.keys.find(key_id)
            if key is not None and not key.destroyed_at:
                gone = _replace(key, wrapped=b"", master="", destroyed_at=self._clock(), destroyed_by=by, reason=reason)
                left = TeamKeys(keys=tuple(gone if each.id == key_id else each for each in kept.keys.keys))
                failpoint("secrets.before-destroy")
                if not await self._table.replace(team, left, at=kept, under=await self._table.fence()):
                    continue
            failpoint("secrets.key-destroyed")
            # Also when it was destroyed before: whoever did so may have died before the history was gone.
            await self._table.forget_history()
            return

    async def rewrap_all(self, old: Mapping[str, MasterKey], new: MasterKey) -> int:
        """Wrap with `new` every key that is wrapped with one of `old`; how many there were. Raises MasterKeyUnusable.

        Nobody wraps with an old one meanwhile, for the fence names `new`; when it names another by now, a rotation on
        another machine has overtaken this one, which then stops.
        """
        count = 0
        for team in sorted(await self._table.teams()):
            while True:
                kept, fence = await self._table.get(team), await self._table.fence()
                if fence.master != new.id:
                    raise MasterKeyUnusable(
                        f"expected to be the only rotation, found another at the master key {fence.master}; bring the "
                        "keys of both files into one, that key first, and rotate again"
                    )
                stale = [key for key in kept.keys.keys if key.wrapped and key.master != new.id]
                if not stale:
                    break
                fresh = {key.id: _rewrapped(key, team, old, new) for key in stale}
                keys = TeamKeys(keys=tuple(fresh.get(key.id, key) for key in kept.keys.keys))
                failpoint("secrets.before-rewrap")
                if await self._table.replace(team, keys, at=kept, under=fence):
                    count += len(stale)
        return count

    async def move_fence(self, new: MasterKey) -> None:
        """From now on only `new` may wrap: whoever still holds an older file is refused by the table."""
        while (fence := await self._table.fence()).master != new.id:
            await self._table.move_fence(new.id, at=fence)

    # --- the master key -----------------------------------------------------------------------------------------------

    async def master_trouble(self) -> str:
        """Why the master key here is not the one that the secrets need; empty while it is, or there are none."""
        fence = await self._table.fence()
        if not fence.revision:
            return ""
        try:
            _master_of(await self._masters(), fence.master, "secrets")
        except MasterKeyUnusable as error:
            return str(error)
        return ""

    async def _masters(self) -> dict[str, MasterKey]:
        return {master.id: master for master in await asyncio.to_thread(read_masters, self._master_file)}

    async def _entered(self) -> Fence:
        """The fence; the first key that is ever made puts it up for the master key in the file."""
        fence = await self._table.fence()
        while not fence.revision:
            masters = await asyncio.to_thread(read_masters, self._master_file)
            await self._table.move_fence(masters[0].id, at=fence)
            fence = await self._table.fence()
        return fence

    async def _current(self, fence: Fence) -> MasterKey:
        return _master_of(await self._masters(), fence.master, "new keys")


def _standing(keys: TeamKeys, key_id: str, team: str, name: str) -> TeamKey:
    """The key of that id, if it can still open. Raises KeyDestroyed."""
    key = keys.find(key_id)
    again = f"set it anew: rayfold config set --secret {name}=…"
    if key is None:
        raise KeyDestroyed(f"{name}: expected the key {key_id} of team {team}, found none of that id; {again}")
    if key.destroyed_at:
        why = f" ({key.reason})" if key.reason else ""
        raise KeyDestroyed(
            f"{name} cannot be read any more: the key of team {team} that sealed it was destroyed by "
            f"{key.destroyed_by}{why}; {again}"
        )
    return key


def _master_of(masters: Mapping[str, MasterKey], wanted: str, what: str) -> MasterKey:
    master = masters.get(wanted)
    if master is None:
        found = ", ".join(masters)
        raise MasterKeyUnusable(
            f"{what}: expected the master key {wanted}, found {found} in the file; put your copy of that key there"
        )
    return master


def _unwrapped(key: TeamKey, team: str, masters: Mapping[str, MasterKey]) -> DataKey:
    master = _master_of(masters, key.master, f"the key {key.id} of team {team}")
    return DataKey(key_id=key.id, key=master.unwrap(key.wrapped, team, key.id))


def _rewrapped(key: TeamKey, team: str, old: Mapping[str, MasterKey], new: MasterKey) -> TeamKey:
    master = _master_of(old, key.master, f"the key {key.id} of team {team}")
    clear = master.unwrap(key.wrapped, team, key.id)
    return _replace(key, master=new.id, wrapped=new.wrap(clear, team, key.id))
