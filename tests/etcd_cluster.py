"""Three real etcd processes of a test's own, and everything that may happen to each: kill, pause, cut, wipe, restore.

Knows etcd's flags and its own maintenance calls; nothing of the log. Connections are plain: it is all one machine.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc.aio
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.log.embedded import etcd_version, find_etcd, flags_against_loss
from events.log.errors import LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from tests.etcd_network import Network, best_network

MEMBERS = 3
UP_SECONDS = 60.0
CALL_SECONDS = 5.0
LAG_REVISIONS = 100  # under load no two members say the same at one moment


class EtcdCluster:
    """`async with EtcdCluster(directory) as cluster:`; members are 0, 1 and 2. Every fault may be repeated."""

    def __init__(
        self,
        directory: Path,
        *,
        network: Network | None = None,
        quota_bytes: int = 2 << 30,
        members: int = MEMBERS,
        snapshot_count: int = 10_000,
        flags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.members = range(members)
        self.network = network or best_network()
        self._directory = directory
        self._flags = {"quota-backend-bytes": quota_bytes, "snapshot-count": snapshot_count, **flags}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._data = {member: directory / f"m{member}" for member in self.members}
        self._restored = 0
        self._against_loss = flags_against_loss(etcd_version(find_etcd()))

    async def __aenter__(self) -> "EtcdCluster":
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            await self.network.open(len(self.members))
            for member in self.members:
                self.start(member)
            await self.answers()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            self.kill(member)
        await self.network.close()

    # --- reaching it --------------------------------------------------------------------------------------------------

    def endpoint(self, member: int) -> str:
        """`host:port` for clients."""
        return self.network.reached_at(member)[1]

    def settings(self, namespace: str = "rayfold", *, only: int | None = None) -> EtcdSettings:
        """How to reach all members, or one."""
        chosen = self.members if only is None else [only]
        return EtcdSettings(endpoints=tuple(self.endpoint(member) for member in chosen), namespace=namespace)

    async def answers(self, seconds: float = UP_SECONDS) -> None:
        """Wait until it serves linearizable reads through some member."""
        async with asyncio.timeout(seconds):
            while True:
                for member in self.members:
                    with contextlib.suppress(LogUnavailable, TimeoutError):
                        async with asyncio.timeout(1.0), self.client(member) as client:
                            await client.revision()
                            return
                await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def client(self, member: int) -> AsyncIterator[EtcdClient]:
        """A client of one member."""
        client = EtcdClient(self.settings(only=member))
        try:
            yield client
        finally:
            await client.close()

    def pid(self, member: int) -> int | None:
        """None while it does not run."""
        process = self._processes.get(member)
        return process.pid if process is not None and process.poll() is None else None

    async def ids(self) -> dict[int, int]:
        """etcd's own id of each member that answers."""
        found = {}
        for member in self.members:
            status = await self._status(member)
            if status is not None:
                found[member] = int(status.header.member_id)
        return found

    async def leader(self, *, apart_from: int | None = None, seconds: float = UP_SECONDS) -> int:
        """The member that the others take for the leader; waits until there is one."""
        async with asyncio.timeout(seconds):
            while True:
                for member in self.members:
                    status = None if member == apart_from else await self._status(member)
                    if status is None or not status.leader or self.pid(member) is None:
                        continue
                    if status.leader == status.header.member_id:
                        return member
                await asyncio.sleep(0.05)

    async def all_agree(self, seconds: float = UP_SECONDS) -> None:
        """Wait until every member answers, follows one leader, and has applied about what the others have."""
        async with asyncio.timeout(seconds):
            while True:
                found = [await self._status(member) for member in self.members]
                told = [status for status in found if status is not None and status.leader]
                revisions = [status.header.revision for status in told]
                one_leader = len(told) == len(found) and len({status.leader for status in told}) == 1
                if one_leader and max(revisions) - min(revisions) <= LAG_REVISIONS:
                    return
                await asyncio.sleep(0.1)

    async def hashes(self) -> dict[int, int]:
        """etcd's own hash of everything each member holds at one revision. They are equal, or etcd itself is broken."""
        async with self.client(await self.leader()) as client:
            revision = await client.revision()
        await self.all_agree()
        request = rpc_pb2.HashKVRequest(revision=revision)
        found = {}
        for member in self.members:
            response = await self._call(member, rpc_pb2_grpc.MaintenanceStub, "HashKV", request, patient=True)
            found[member] = int(response.hash)
        return found

    # --- faults of a member -------------------------------------------------------------------------------------------

    def start(self, member: int) -> None:
        """Start it where it is not running, with whatever data it has."""
        if self.pid(member) is None:
            self._launch(member, "new")

    def kill(self, member: int) -> None:
        """kill -9, also of a paused one. It is gone when this returns."""
        process = self._processes.pop(member, None)
        if process is not None:
            process.kill()
            process.wait()

    def stop(self, member: int) -> None:
        """Pause it: connections stay, nothing is answered."""
        self._signal(member, signal.SIGSTOP)

    def cont(self, member: int) -> None:
        """Let it go on where it was."""
        self._signal(member, signal.SIGCONT)

    async def cut(self, member: int) -> None:
        """Cut it off from the others and from clients."""
        await self.network.cut(member)

    async def heal(self, member: int) -> None:
        await self.network.heal(member)

    async def wipe(self, member: int) -> None:
        """A machine was lost: the member leaves the cluster and a new one without data takes its place."""
        victim = (await self.ids())[member]
        helper = next(other for other in self.members if other != member and self.pid(other) is not None)
        self.kill(member)
        await self._call(
            helper, rpc_pb2_grpc.ClusterStub, "MemberRemove", rpc_pb2.MemberRemoveRequest(ID=victim), patient=True
        )
        peer = f"http://{self.network.reached_at(member)[0]}"
        added = rpc_pb2.MemberAddRequest(peerURLs=[peer])
        await self._call(helper, rpc_pb2_grpc.ClusterStub, "MemberAdd", added, patient=True)
        shutil.rmtree(self._data[member])
        self._launch(member, "existing")

    # --- faults of all ------------------------------------------------------------------------------------------------

    async def move_leader(self, to: int) -> None:
        """Hand the lead to `to`, as an operator does before maintenance."""
        ids, leader = await self.ids(), await self.leader()
        request = rpc_pb2.MoveLeaderRequest(targetID=ids[to])
        await self._call(leader, rpc_pb2_grpc.MaintenanceStub, "MoveLeader", request)

    async def alarms(self) -> int:
        """How many alarms are raised."""
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        response = await self._call(await self.leader(), rpc_pb2_grpc.MaintenanceStub, "Alarm", request, patient=True)
        return len(response.alarms)

    async def make_room(self) -> None:
        """What an operator does when it is full: compact, defragment each member, take the alarms away."""
        leader = await self.leader()
        async with self.client(leader) as client:
            revision = await client.revision()
            request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
            with contextlib.suppress(grpc.aio.AioRpcError):  # compacted there already
                await self._call(leader, rpc_pb2_grpc.KVStub, "Compact", request)
        for member in self.members:
            if self.pid(member) is not None:
                await self._call(member, rpc_pb2_grpc.MaintenanceStub, "Defragment", rpc_pb2.DefragmentRequest())
        request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
        raised = await self._call(leader, rpc_pb2_grpc.MaintenanceStub, "Alarm", request, patient=True)
        for alarm in raised.alarms:
            off = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
            )
            await self._call(leader, rpc_pb2_grpc.MaintenanceStub, "Alarm", off, patient=True)

    async def restore_from_snapshot(self) -> None:
        """Every machine was lost: all members begin anew from a backup that etcd's own tool took just before."""
        leader = await self.leader()
        backup = self._directory / "backup.db"
        backup.unlink(missing_ok=True)
        await self._tool("etcdctl", "--endpoints", self.endpoint(leader), "snapshot", "save", str(backup))
        for member in self.members:
            self.kill(member)
        self._restored += 1
        for member in self.members:
            shutil.rmtree(self._data[member])
            peer = f"http://{self.network.reached_at(member)[0]}"
            await self._tool(
                "etcdctl", "snapshot", "restore", str(backup), "--data-dir", str(self._data[member]), "--name",
                f"m{member}", "--initial-cluster", self._all_peers(), "--initial-advertise-peer-urls", peer,
                "--initial-cluster-token", f"restored-{self._restored}",
            )  # fmt: skip
        for member in self.members:
            self.start(member)
        await self.answers()

    async def everything_well(self) -> None:
        """End every fault, and wait until it is one healthy cluster again."""
        await self.network.heal_clients()
        for member in self.members:
            await self.network.heal(member)
            if self.pid(member) is not None:
                self.cont(member)
            self.start(member)
        await self.all_agree()

    # --- the processes ------------------------------------------------------------------------------------------------

    def _all_peers(self) -> str:
        return ",".join(f"m{member}=http://{self.network.reached_at(member)[0]}" for member in self.members)

    def _launch(self, member: int, state: str) -> None:
        listens, reached = self.network.listens(member), self.network.reached_at(member)
        flags = {
            "name": f"m{member}",
            "data-dir": self._data[member],
            "listen-peer-urls": f"http://{listens[0]}",
            "listen-client-urls": f"http://{listens[1]}",
            "initial-advertise-peer-urls": f"http://{reached[0]}",
            "advertise-client-urls": f"http://{reached[1]}",
            "initial-cluster": self._all_peers(),
            "initial-cluster-state": state,
            "log-level": "warn",
            "log-outputs": "stderr",
            **self._flags,
        }
        given = [f"--{name}={value}" for name, value in flags.items()]
        command = [find_etcd(), *self._against_loss, *given]
        with (self._directory / f"m{member}.log").open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [*self.network.run_in(member), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME")},
                start_new_session=True,
            )
        self.network.started(member, self._processes[member].pid)

    def _signal(self, member: int, number: int) -> None:
        process = self._processes.get(member)
        if process is not None:
            process.send_signal(number)

    async def _tool(self, name: str, *arguments: str) -> None:
        program = Path(find_etcd()).with_name(name)
        found = str(program) if program.is_file() else shutil.which(name) or str(Path(sys.executable).with_name(name))
        process = await asyncio.create_subprocess_exec(
            found, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "ETCDCTL_API": "3"},
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, f"{name} {' '.join(arguments)}: {said.decode()[-2000:]}"

    async def _status(self, member: int) -> Any | None:
        if self.pid(member) is None:
            return None
        try:
            return await self._call(
                member, rpc_pb2_grpc.MaintenanceStub, "Status", rpc_pb2.StatusRequest(), seconds=1.0
            )
        except grpc.aio.AioRpcError:
            return None

    async def _call(
        self, member: int, stub: Any, method: str, request: Any, *, patient: bool = False, seconds: float = CALL_SECONDS
    ) -> Any:
        """One call to one member; a patient one is repeated while there is no leader to do it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + UP_SECONDS
        async with grpc.aio.insecure_channel(self.endpoint(member)) as channel:
            while True:
                try:
                    return await getattr(stub(channel), method)(request, timeout=seconds)
                except grpc.aio.AioRpcError:
                    if not patient or loop.time() > deadline:
                        raise
                await asyncio.sleep(0.2)
