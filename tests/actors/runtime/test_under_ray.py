"""Under real Ray: instances outlive the worker that started them, however it ends, and the next one adopts them."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.runtime.port import InstanceSpec, InstanceStatus
from actors.runtime.processes import ProcessRuntime
from tests.actors.runtime.instances import runs

ray = pytest.importorskip("ray")
HOUSE = Path(__file__).parents[3]


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rf-"))
    path.chmod(0o711)
    (path / "artifact").mkdir()
    (path / "artifact").chmod(0o755)
    yield path
    asyncio.run(_end_all(path))
    shutil.rmtree(path, ignore_errors=True)


async def _end_all(base: Path) -> None:
    runtime = ProcessRuntime(node_root=base / "node", run_dir=base / "run")
    for status in await runtime.open():
        await runtime.stop(status.instance_id, 0.0)
    await runtime.close()


class Agent:
    """The thinnest Ray actor around the runtime."""

    def __init__(self, base: str) -> None:
        self._base = Path(base)

    async def start(self, instance_id: str) -> InstanceStatus:
        runtime = ProcessRuntime(node_root=self._base / "node", run_dir=self._base / "run")
        await runtime.open()
        status = await runtime.start(
            InstanceSpec(
                instance_id=instance_id,
                service_id="0123456789abcdef",
                team="acme",
                app="shop",
                component="web",
                release=1,
                command="sleep 300",
                artifact_path=str(self._base / "artifact"),
            )
        )
        self._runtime = runtime
        return status


@pytest.mark.servers
def test_killing_the_worker_and_then_ray_leaves_instances_running(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by a runtime environment: with one, Ray starts no worker from a path that has a space.
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        first = ray.remote(Agent).remote(str(base))
        one = ray.get(first.start.remote("one"), timeout=60)
        ray.kill(first)
        second = ray.remote(Agent).remote(str(base))
        again = ray.get(second.start.remote("one"), timeout=60)
        two = ray.get(second.start.remote("two"), timeout=60)
    finally:
        ray.shutdown()

    assert again == one
    assert runs(one.pid) and runs(two.pid)
