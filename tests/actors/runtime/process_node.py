"""A machine on which the process runtime keeps instances, and its shims as the process table shows them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from actors.runtime.port import InstanceSpec
from actors.runtime.processes import ProcessRuntime
from tests.actors.runtime.instances import Instances, Node, eventually


class ProcessNode(Node):
    """A node in a temporary directory that other users can reach."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.artifact = base / "artifact"
        self.artifact.mkdir()
        self.artifact.chmod(0o755)
        self._current: ProcessRuntime | None = None

    async def platform(self) -> ProcessRuntime:
        await self.leave()
        self._current = ProcessRuntime(node_root=self.base / "node", run_dir=self.base / "run")
        await self._current.open()
        return self._current

    async def leave(self) -> None:
        if self._current is not None:
            await self._current.close()

    async def end_all(self) -> None:
        runtime = await self.platform()
        for status in await runtime.list():
            await runtime.stop(status.instance_id, 0.0)
        await runtime.close()

    def instance(self, instance_id: str = "one") -> Path:
        return self.base / "node" / "instances" / instance_id

    def shim_pid(self, instance_id: str = "one") -> int | None:
        """The living shim, found by its command line."""
        wanted = str(self.instance(instance_id)).encode()
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words and any(word.endswith(b"runtime/shim/__main__.py") for word in words):
                return int(path.name)
        return None

    async def new_shim(self, before: int | None) -> int:
        async def look() -> int | None:
            found = self.shim_pid()
            return found if found != before else None

        return await eventually(look, "a replacement shim")

    async def no_shim(self) -> None:
        async def look() -> bool | None:
            return self.shim_pid() is None or None

        await eventually(look, "the shim is gone")


@asynccontextmanager
async def processes(base: Path) -> AsyncIterator[ProcessNode]:
    """A node in `base`, with nothing left running at the end."""
    node = ProcessNode(base)
    yield node
    await node.end_all()


def spec(node: ProcessNode, command: str, **more: object) -> InstanceSpec:
    """One instance of it that runs `command`."""
    return Instances.spec(node, command, **more)  # type: ignore[arg-type]


async def wait_for(path: Path) -> None:
    """Until it is there."""

    async def look() -> bool | None:
        return path.exists() or None

    await eventually(look, f"{path} appears")
