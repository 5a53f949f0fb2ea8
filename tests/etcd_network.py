"""Where the members of a test's etcd cluster live, and how one is cut off: network namespaces for root, proxies else.

Knows links and ports, nothing of etcd. A cut loses packets and answers nothing, as a real one does: nobody sees a
connection end.
"""

import asyncio
import ipaddress
import itertools
import json
import os
import random
import re
import shutil
import socket
from typing import Protocol

import psutil

PEER_PORT = 2380
CLIENT_PORT = 2379
_NAME = re.compile(r"(rf[0-9a-f]+x\d+)[bm]\d*$")
_SUBNETS = 4096


class Network(Protocol):
    """Places for so many members. `peer` and `client` are the addresses that others reach a member by."""

    async def open(self, members: int) -> None: ...

    async def close(self) -> None: ...

    def run_in(self, member: int) -> list[str]:
        """What to put before a member's command line."""
        ...

    def listens(self, member: int) -> tuple[str, str]:
        """`host:port` for peers and for clients, as the member itself binds them."""
        ...

    def reached_at(self, member: int) -> tuple[str, str]:
        """`host:port` for peers and for clients, as others reach them."""
        ...

    def started(self, member: int, pid: int) -> None:
        """A member runs as this process now."""
        ...

    async def cut(self, member: int) -> None:
        """From now on nothing reaches the member and nothing that it sends arrives, from peers or from clients."""
        ...

    async def heal(self, member: int) -> None: ...

    async def cut_clients(self) -> None:
        """From now on no client reaches any member; members reach one another."""
        ...

    async def heal_clients(self) -> None: ...


def best_network() -> Network:
    """Namespaces where this process may make them, else proxies."""
    return NamespaceNetwork() if os.geteuid() == 0 and shutil.which("ip") else ProxyNetwork()


class NamespaceNetwork:
    """A namespace for each member, joined by a bridge; this process is on it by a link of its own. Needs root.

    Names hold this process's id, so that what a killed run left is found and taken away by the next, and a number: the
    links of a network that was just closed go away when the kernel comes to it.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._name = f"rf{os.getpid():x}x{next(self._numbers)}"
        self._subnet = ipaddress.ip_network("10.0.0.0/24")

    async def open(self, members: int) -> None:
        await self._sweep()
        self._subnet = await self._free_subnet()
        bridge, width = f"{self._name}b", self._subnet.prefixlen
        await _ip(f"link add {bridge} type bridge", f"link set {bridge} up")
        await _ip(
            f"link add {self._name}c type veth peer name {self._name}d",
            f"link set {self._name}d master {bridge} up",
            f"addr add {self.here}/{width} dev {self._name}c",
            f"link set {self._name}c up",
        )
        for member in range(members):
            space, outer, inner = self._space(member), self._link(member), f"{self._name}i{member}"
            await _ip(
                f"netns add {space}",
                f"link add {outer} type veth peer name {inner}",
                f"link set {inner} netns {space}",
                f"link set {outer} master {bridge} up",
                f"-n {space} addr add {self.host(member)}/{width} dev {inner}",
                f"-n {space} link set {inner} up",
                f"-n {space} link set lo up",
            )

    async def close(self) -> None:
        await _remove(self._name)

    @property
    def here(self) -> str:
        """The address at which members reach this process."""
        return str(self._subnet[254])

    def host(self, member: int) -> str:
        """The address of a member."""
        return str(self._subnet[member + 1])

    def run_in(self, member: int) -> list[str]:
        return [shutil.which("ip") or "ip", "netns", "exec", self._space(member)]

    def listens(self, member: int) -> tuple[str, str]:
        host = self.host(member)
        return f"{host}:{PEER_PORT}", f"{host}:{CLIENT_PORT}"

    def reached_at(self, member: int) -> tuple[str, str]:
        return self.listens(member)

    def started(self, member: int, pid: int) -> None:
        """A link belongs to the namespace, whichever process is in it."""

    async def cut(self, member: int) -> None:
        await _ip(f"link set {self._link(member)} down")

    async def heal(self, member: int) -> None:
        await _ip(f"link set {self._link(member)} up")

    async def cut_clients(self) -> None:
        await _ip(f"link set {self._name}d down")

    async def heal_clients(self) -> None:
        await _ip(f"link set {self._name}d up")

    def _space(self, member: int) -> str:
        return f"{self._name}m{member}"

    def _link(self, member: int) -> str:
        return f"{self._name}o{member}"

    async def _free_subnet(self) -> ipaddress.IPv4Network:
        """One of 10.240.0.0/12 that no route of this machine leads to."""
        told = json.loads(await _ip_out("-j", "-4", "route", "show", "table", "all"))
        routes = [ipaddress.ip_network(item["dst"]) for item in told if item["dst"] != "default"]
        first = int(ipaddress.ip_address("10.240.0.0"))
        for number in random.sample(range(_SUBNETS), _SUBNETS):
            subnet = ipaddress.IPv4Network((first + 256 * number, 24))
            if not any(isinstance(r, ipaddress.IPv4Network) and subnet.overlaps(r) for r in routes):
                return subnet
        raise AssertionError("expected a free network in 10.240.0.0/12, found none")

    async def _sweep(self) -> None:
        """What runs left behind whose process is gone."""
        for name in {found[1] for each in await _existing() if (found := _NAME.match(each))}:
            if not psutil.pid_exists(int(name.removeprefix("rf").partition("x")[0], 16)):
                await _remove(name)


async def _existing() -> list[str]:
    """Namespaces, then links: those of a namespace go with it."""
    spaces = json.loads(await _ip_out("-j", "netns", "list") or "[]")
    links = json.loads(await _ip_out("-j", "link", "show") or "[]")
    return [*(item["name"] for item in spaces), *(item["ifname"] for item in links)]


async def _remove(name: str) -> None:
    """Whatever there is of the network; half of it where opening it failed."""
    existing = await _existing()
    for space in existing:
        if re.fullmatch(rf"{name}m\d+", space):
            await _ip(f"netns del {space}")  # takes its end of the link along, and the other end with it
    for link in (f"{name}c", f"{name}b"):
        if link in existing:
            await _ip(f"link del {link}")


async def _ip(*commands: str) -> None:
    for command in commands:
        await _ip_out(*command.split())


async def _ip_out(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "ip", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"ip {' '.join(words)}: {err.decode()}"
    return out.decode()


class LocalNetwork:
    """Ports of one address of this machine, for members that are killed and never cut off."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._ports: list[tuple[int, int]] = []

    async def open(self, members: int) -> None:
        self._ports = [(_free_port(), _free_port()) for _ in range(members)]

    async def close(self) -> None:
        pass

    def run_in(self, member: int) -> list[str]:
        return []

    def listens(self, member: int) -> tuple[str, str]:
        peer, client = self._ports[member]
        return f"{self._host}:{peer}", f"{self._host}:{client}"

    def reached_at(self, member: int) -> tuple[str, str]:
        return self.listens(member)

    def started(self, member: int, pid: int) -> None:
        """Nothing needs to know."""

    async def cut(self, member: int) -> None:
        raise AssertionError("expected a network with something between its members, found ports of one machine")

    async def heal(self, member: int) -> None:
        """Nothing is ever cut."""

    async def cut_clients(self) -> None:
        await self.cut(0)

    async def heal_clients(self) -> None:
        """Nothing is ever cut."""


class _Gate:
    """Lets bytes through while it is open."""

    def __init__(self) -> None:
        self.closed_for: set[str] = set()
        self._changed = asyncio.Event()

    def change(self, reason: str, *, closed: bool) -> None:
        if closed:
            self.closed_for.add(reason)
        else:
            self.closed_for.discard(reason)
        self._changed.set()
        self._changed = asyncio.Event()

    async def passed(self, *reasons: str) -> None:
        """Wait until the gate is closed for none of these."""
        while not self.closed_for.isdisjoint(reasons):
            await self._changed.wait()


class ProxyNetwork:
    """Loopback, with a proxy before each member's two ports. Whose connection a peer's is, its process tells."""

    def __init__(self) -> None:
        self._gate = _Gate()
        self._ports: list[tuple[int, int]] = []
        self._servers: list[tuple[asyncio.Server, asyncio.Server]] = []
        self._pids: dict[int, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, members: int) -> None:
        for member in range(members):
            self._ports.append((_free_port(), _free_port()))
            self._servers.append((await self._serve(member, 0), await self._serve(member, 1)))

    async def close(self) -> None:
        for pair in self._servers:
            for server in pair:
                server.close()
        for reason in list(self._gate.closed_for):
            self._gate.change(reason, closed=False)
        for writer in self._writers:
            writer.transport.abort()

    def run_in(self, member: int) -> list[str]:
        return []

    def listens(self, member: int) -> tuple[str, str]:
        peer, client = self._ports[member]
        return f"127.0.0.1:{peer}", f"127.0.0.1:{client}"

    def reached_at(self, member: int) -> tuple[str, str]:
        peer, client = (server.sockets[0].getsockname()[1] for server in self._servers[member])
        return f"127.0.0.1:{peer}", f"127.0.0.1:{client}"

    def started(self, member: int, pid: int) -> None:
        self._pids[pid] = member

    async def cut(self, member: int) -> None:
        self._gate.change(f"m{member}", closed=True)

    async def heal(self, member: int) -> None:
        self._gate.change(f"m{member}", closed=False)

    async def cut_clients(self) -> None:
        self._gate.change("clients", closed=True)

    async def heal_clients(self) -> None:
        self._gate.change("clients", closed=False)

    async def _serve(self, member: int, which: int) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = writer.get_extra_info("peername")[1]
            source = "clients" if which else await asyncio.to_thread(self._source, port)
            try:
                upstream = await asyncio.open_connection("127.0.0.1", self._ports[member][which])
            except OSError:
                writer.transport.abort()
                return
            ends, writers = (f"m{member}", source), {writer, upstream[1]}
            self._writers |= writers
            await asyncio.gather(self._pump(reader, upstream[1], *ends), self._pump(upstream[0], writer, *ends))
            self._writers -= writers

        return await asyncio.start_server(serve, "127.0.0.1", 0)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *ends: str) -> None:
        try:
            while data := await source.read(65536):
                await self._gate.passed(*ends)
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        sink.transport.abort()

    def _source(self, port: int) -> str:
        for pid, member in list(self._pids.items()):
            try:
                mine = psutil.Process(pid).net_connections("tcp")
            except psutil.Error:
                continue
            if any(each.laddr and each.laddr.port == port for each in mine):
                return f"m{member}"
        return "nobody"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
