"""Reserves loopback ports for instances, outside the range the kernel hands to outgoing connections.

A reservation is a file named after the port, so it outlives the platform; knows nothing of what listens there.
"""

import os
import random
import socket
from pathlib import Path

from actors.runtime.errors import NodeNotUsable

FIRST_PORT = 20_000
_LAST_PORT_DEFAULT = 32_767
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_NARROWEST = 1_000


def port_range() -> range:
    """From 20000 up to where the kernel's ephemeral ports begin; beside them where they begin too low."""
    try:
        low, high = map(int, _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        low, high = _LAST_PORT_DEFAULT + 1, 60_999
    if low - FIRST_PORT >= _NARROWEST:
        return range(FIRST_PORT, low)
    if 65_536 - high >= _NARROWEST:
        return range(high + 1, 65_536)
    return range(FIRST_PORT, _LAST_PORT_DEFAULT + 1)  # no room beside them: binding decides


class PortBook:
    """Reservations under one directory; a port belongs to one instance until released. All calls block briefly."""

    def __init__(self, directory: Path, *, host: str, ports: range) -> None:
        self._directory = directory
        self._host = host
        self._ports = ports

    def reserve(self, instance_id: str) -> int:
        """A port nobody has and nobody listens on. Raises NodeNotUsable when there is none."""
        taken = self.reservations()
        start = random.randrange(len(self._ports))  # noqa: S311 -- spreads, so that a port just freed is not next
        for step in range(len(self._ports)):
            port = self._ports[(start + step) % len(self._ports)]
            if port not in taken and self._is_free(port) and self._claim(port, instance_id):
                return port
        raise NodeNotUsable(
            f"expected a free port in {self._ports.start}-{self._ports.stop - 1} on {self._host}, found none; "
            "remove instances that have ended"
        )

    def release(self, port: int) -> None:
        """Give the port back; absent is done."""
        (self._directory / str(port)).unlink(missing_ok=True)

    def reservations(self) -> dict[int, str]:
        """Port to instance id."""
        found = {}
        for path in self._directory.iterdir():
            if path.name.isdigit():
                try:
                    found[int(path.name)] = path.read_text()
                except FileNotFoundError:
                    continue
        return found

    def _is_free(self, port: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT, never past a listener
            try:
                probe.bind(("", port))  # on every address: an application may listen on all of them
            except OSError:
                return False
        return True

    def _claim(self, port: int, instance_id: str) -> bool:
        # Linked into place whole: two platforms on one node cannot both succeed, and no reader sees it empty.
        draft = self._directory / f".{port}.{os.getpid()}"
        draft.write_text(instance_id)
        try:
            os.link(draft, self._directory / str(port))
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True
