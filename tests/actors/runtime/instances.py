"""A node under test and the instances that tests start on it, for whatever runtime it has."""

import asyncio
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from actors.runtime.port import InstanceKind, InstanceSpec, InstanceStatus, Limits, Runtime

PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
MIB = 1024 * 1024
DEADLINE_SECONDS = 20.0
_T = TypeVar("_T")


async def eventually(look: Callable[[], Awaitable[_T | None]], what: str) -> _T:
    """Look until there is something to see; fails with `what` after DEADLINE_SECONDS."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = await look()
            if found is not None:
                return found
            await asyncio.sleep(0.02)
    raise AssertionError(what)


def script(artifact: Path, name: str, text: str) -> str:
    """Write a Python program into the artifact; returns the command line that runs it."""
    path = artifact / name
    path.write_text(text)
    path.chmod(0o644)
    return f"{PYTHON} -u {name}"


class Node(ABC):
    """One node of the adapter under test, on which platforms come and go."""

    artifact: Path
    """A directory readable for every application, to put programs in."""

    @abstractmethod
    async def platform(self) -> Runtime:
        """A fresh, opened runtime on this node: what a restarted platform makes. The one before is closed."""


class Instances:
    """What tests of a runtime have in common. Subclass it and define the fixture `node`."""

    @pytest.fixture
    async def runtime(self, node: Node) -> AsyncIterator[Runtime]:
        runtime = await node.platform()
        yield runtime
        for status in await runtime.list():
            await runtime.stop(status.instance_id, 0.0)

    @staticmethod
    def spec(
        node: Node,
        command: str,
        *,
        instance_id: str = "one",
        app: str = "shop",
        kind: InstanceKind = InstanceKind.SERVICE,
        env: Mapping[str, str] | None = None,
        wants_port: bool = False,
        limits: Limits | None = None,
    ) -> InstanceSpec:
        return InstanceSpec(
            instance_id=instance_id,
            service_id="0123456789abcdef",
            team="acme",
            app=app,
            component="web",
            release=1,
            kind=kind,
            command=command,
            artifact_path=str(node.artifact),
            env=env or {},
            wants_port=wants_port,
            limits=limits or Limits(),
        )

    @staticmethod
    async def over(runtime: Runtime, instance_id: str = "one") -> InstanceStatus:
        async def look() -> InstanceStatus | None:
            status = await runtime.status(instance_id)
            return status if status.exited_at is not None else None

        return await eventually(look, f"{instance_id} ends")

    @staticmethod
    async def says(runtime: Runtime, line: str, instance_id: str = "one") -> list[str]:
        async def look() -> list[str] | None:
            lines = await runtime.last_lines(instance_id, 1000)
            return lines if any(line in each for each in lines) else None

        return await eventually(look, f"{instance_id} says {line}")


def runs(pid: int) -> bool:
    """Whether a process of this number runs; one that only nobody has reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
