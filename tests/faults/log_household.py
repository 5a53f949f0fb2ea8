"""The processes of the log's fault test: members of the pool, collectors, and nodes whose instances print.

`log_household.py member ROOT NAME`, `collector ROOT NODE`, `node ROOT NODE LINES PER_SECOND`.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.followed import Followed
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.runtime.shim.segments import Segments, encode

TOKEN = "f" * 32
TURN_LINES = 20


def instances_of(root: Path, node: str) -> dict[str, str]:
    """The instances of a node, with the log stream of each."""
    found: dict[str, str] = json.loads((root / f"{node}.json").read_text())
    return found


def directory_of(root: Path, node: str, instance: str) -> Path:
    """Where an instance's output is."""
    return root / node / "instances" / instance


async def member(root: Path, name: str) -> None:
    """For ever."""
    store = LogStore(root / "logs", member=name)
    await store.start()
    meet = root / "m"
    server = EventlogServer(store, TOKEN, port_file=meet / f"{name}.addr", member=name, mesh_directory=meet)
    await server.start()
    while True:
        store.check()
        server.check()
        await asyncio.sleep(0.5)


async def collector(root: Path, node: str) -> None:
    """Until every instance has ended and is stored."""
    client = LogClient(root / "m", TOKEN, node=node)
    collecting = Collector(client, root / f"{node}.state")
    await collecting.start()
    instances = instances_of(root, node)
    for instance, stream in instances.items():
        directory = str(directory_of(root, node, instance))
        await collecting.follow(Followed(instance_id=instance, stream=stream, release=1, directory=directory))
    for instance in instances:
        while not await collecting.drained(instance, 60):
            pass
    await collecting.aclose()
    await client.aclose()


def node(root: Path, name: str, lines: int, per_second: int) -> None:
    """Each instance prints `lines` lines, as its shim would write them; says so when the disk refuses the first."""
    instances = instances_of(root, name)
    segments = {}
    for instance in instances:
        directory = directory_of(root, name, instance)
        (directory / "log").mkdir(parents=True)
        segments[instance] = Segments(str(directory / "log"), 200_000, 1 << 30)
    print("ready", flush=True)
    sys.stdin.readline()
    began, printed, refused = time.monotonic(), 0, False
    for first in range(0, lines, TURN_LINES):
        for instance, output in segments.items():
            turn = range(first, min(first + TURN_LINES, lines))
            text = b"".join(b"%s %d of a line as an application prints it\n" % (instance.encode(), n) for n in turn)
            output.write(encode(text, b"o", time.time_ns() // 1000, False)[0])
            printed += len(turn)
            if not refused and not output.count_losses():
                refused = True
                print("refused", flush=True)
        time.sleep(max(0.0, began + printed / per_second - time.monotonic()))
    for instance, output in segments.items():
        while not output.count_losses():
            time.sleep(0.05)
        output.close()
        (directory_of(root, name, instance) / "exit.json").write_text("{}")


def main() -> None:
    role, root, name, *numbers = sys.argv[1:]
    if role == "node":
        node(Path(root), name, *map(int, numbers))
    else:
        asyncio.run({"member": member, "collector": collector}[role](Path(root), name))


if __name__ == "__main__":
    main()
