"""The container engine's part of a node: how an instance's container is called, started, and taken away for certain.

Every container bears the labels of its node's root and of its instance. Knows the engine; nothing of events or Ray.
"""

import hashlib
import logging
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

from actors.containers.engine import HOME_LABEL, INSTANCE_LABEL, ContainerEngine
from actors.containers.errors import ContainerFault

_ATTEND = Path(__file__).with_name("attend.py")
_log = logging.getLogger(__name__)


class Containers:
    """The engine at `address`, for the node whose root is `home`."""

    def __init__(self, address: str, home: Path) -> None:
        self.engine = ContainerEngine(address)
        self._address = address
        self._home = str(home.absolute())
        self._mark = hashlib.blake2b(self._home.encode(), digest_size=4).hexdigest()

    def name_of(self, instance_id: str) -> str:
        """The container's name: the effect is named by the instance."""
        return f"rayfold-{self._mark}-{instance_id}"

    def shell_line(self, directory: Path, instance_id: str) -> str:
        """What the shim runs for it: attend.py, with nothing of the instance's own on its command line."""
        words = [sys.executable, "-I", "-S", str(_ATTEND), str(directory), self._address]
        return "exec " + shlex.join([*words, self.name_of(instance_id), self._home])

    async def clear(self, instance_id: str) -> None:
        """Kill and remove the instance's container; absent is fine. Raises `ContainerFault`."""
        await self.engine.remove(self.name_of(instance_id))

    async def sweep(self, alive: Collection[str]) -> list[str]:
        """Remove this node's containers of all other instances; returns which. An engine that is away is only told."""
        swept = []
        try:
            for found in await self.engine.containers({HOME_LABEL: self._home, INSTANCE_LABEL: ""}):
                instance = found.labels.get(INSTANCE_LABEL, "")
                if instance not in alive:
                    await self.engine.remove(found.id)
                    swept.append(instance)
        except ContainerFault as error:
            _log.warning("containers that nobody needs could not be looked for: %s", error)
        return swept
