"""A supervisor in a process of its own, with a real log and no machines, for tests that stop and continue it.

Exits with GIVEN_UP when it was held for dead; says on its standard output what it serves. Knows nothing of what befalls
it.
"""

import asyncio
import json
import sys

import msgspec

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.supervisor import GivenUp, Supervisor
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.model.component_progress import Effect
from events.model.placement import Room

GIVEN_UP = 3


class NoMachines:
    """The hands and the nodes of a platform on which nothing runs."""

    def nodes(self) -> list[Room]:
        return []

    def gone(self) -> tuple[str, ...]:
        return ()

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        raise AssertionError(f"an empty log owes nothing, found {effect}")


def supervisor(name: str, event_log: EtcdEventLog) -> Supervisor:
    """A supervisor that is ready to be assigned partitions."""
    hands = NoMachines()
    made = Supervisor(name=name, event_log=event_log, nodes=hands)  # type: ignore[arg-type]
    made.use(hands)
    return made


async def main(settings: EtcdSettings, name: str, partitions: list[int]) -> int:
    """Serve `partitions` until held for dead; returns the exit code."""
    event_log = EtcdEventLog(settings)
    await event_log.open()
    mine = supervisor(name, event_log)
    while await mine.assign(partitions) != partitions:
        await asyncio.sleep(0.2)
    print("serves", flush=True)
    try:
        await mine.tend()
    except GivenUp as error:
        print(error, flush=True)
        return GIVEN_UP
    return 0


if __name__ == "__main__":
    told, own_name, mine = sys.argv[1:]
    sys.exit(asyncio.run(main(msgspec.convert(json.loads(told), EtcdSettings), own_name, json.loads(mine))))
