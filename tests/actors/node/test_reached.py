"""A machine is known by an address at which others reach it, whatever its platform is bound to."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.cluster.settings import PlatformSettings
from actors.node.actor import NodeAgent
from actors.node.runtime import process_runtime
from actors.runtime.port import InstanceSpec
from events.log.etcd_connection import EtcdSettings
from events.model.base import Envelope, Reply
from events.model.node import JoinNode
from events.model.registry import decode_command


@pytest.fixture
def settings() -> Iterator[PlatformSettings]:
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    yield PlatformSettings(
        data=str(base), run=str(base / "run"), node_root=str(base / "node"), node="here", database_url="sqlite://",
        etcd=EtcdSettings(endpoints=("e:1",)), bind="0.0.0.0", ray_address="127.0.0.1:6379", ray_joined=True,
    )  # fmt: skip
    shutil.rmtree(base)


class Sent:
    """Takes what an agent says."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def submit(self, envelopes: list[Envelope]) -> list[Reply]:
        self.envelopes += envelopes
        return [Reply(command_id=each.command_id) for each in envelopes]


async def test_a_home_machine_bound_to_all_addresses_joins_with_the_one_of_the_cluster(
    settings: PlatformSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, sent = NodeAgent("node-here", msgspec.json.encode(settings)), Sent()
    monkeypatch.setattr(agent, "_commands", sent, raising=False)

    assert await agent._join()

    [envelope] = sent.envelopes
    command = decode_command(envelope.stream, envelope.command)
    assert isinstance(command, JoinNode) and command.address == "127.0.0.1"


async def test_its_instances_are_there_too(settings: PlatformSettings) -> None:
    spec = InstanceSpec(
        instance_id="one", service_id="0123456789abcdef", team="acme", app="shop", component="web", release=1,
        command="sleep 60", artifact_path="/usr", wants_port=True,
    )  # fmt: skip
    runtime = process_runtime(settings)
    await runtime.open()
    try:
        assert (await runtime.start(spec)).host == "127.0.0.1"
    finally:
        await runtime.stop("one", 0.0)
        await runtime.close()
