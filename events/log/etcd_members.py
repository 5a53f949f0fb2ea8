"""The members of an etcd one by one: how full each is, giving back freed pages, taking back the alarm of no space.

Knows etcd's maintenance calls, which answer for one member only; nothing of keys or of the log.
"""

import asyncio
from typing import Any

import msgspec
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.log.errors import LogUnavailable
from events.log.etcd_connection import EtcdConnection, EtcdSettings, Purpose

STATUS_TIMEOUT_S = 2.0
DEFRAGMENT_TIMEOUT_S = 300.0
"""A member rewrites its whole file and answers nobody meanwhile: seconds for each GiB on a disk, more on a slow one."""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One member, of its own file. Sizes in bytes.

    `db_size` is the file up to its last page that was ever used, which is what etcd compares with its quota;
    `db_in_use` leaves out the pages that were freed and will be used again before the file grows.
    """

    endpoint: str
    version: str
    leads: bool
    db_size: int
    db_in_use: int
    no_space: bool


class EtcdMembers:
    """A connection to each endpoint. `open`, then `close`."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._members = {
            endpoint: EtcdConnection(msgspec.structs.replace(settings, endpoints=(endpoint,)))
            for endpoint in settings.endpoints
        }

    async def open(self) -> None:
        """Read key files, log in where a user is set; members that do not answer are left for later."""
        await asyncio.gather(*(member.open() for member in self._members.values()), return_exceptions=True)

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self._members.values()))

    async def statuses(self) -> list[MemberStatus]:
        """Those that answer, the leader last. Raises LogUnavailable if none does."""
        found = await asyncio.gather(*(self._status(e) for e in self._members), return_exceptions=True)
        statuses = [status for status in found if isinstance(status, MemberStatus)]
        if not statuses:
            raise next(iter(error for error in found if isinstance(error, BaseException)), LogUnavailable("no member"))
        return sorted(statuses, key=lambda status: (status.leads, status.endpoint))

    async def defragment(self, endpoint: str) -> None:
        """Rewrite one member's file without its free pages. It answers nothing until that is done."""
        await self._call(
            endpoint,
            lambda channel: rpc_pb2_grpc.MaintenanceStub(channel).Defragment,
            rpc_pb2.DefragmentRequest(),
            DEFRAGMENT_TIMEOUT_S,
        )

    async def disarm_no_space(self) -> None:
        """Let the cluster take writes again. It takes the alarm back up at the next write that finds no space."""
        endpoint = (await self.statuses())[-1].endpoint
        alarm = lambda channel: rpc_pb2_grpc.MaintenanceStub(channel).Alarm  # noqa: E731
        asked = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET, alarm=rpc_pb2.NOSPACE)
        for raised in (await self._call(endpoint, alarm, asked, STATUS_TIMEOUT_S)).alarms:
            # One by one: etcd takes no "all of them" here.
            disarm = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=raised.memberID, alarm=rpc_pb2.NOSPACE
            )
            await self._call(endpoint, alarm, disarm, STATUS_TIMEOUT_S)

    async def _status(self, endpoint: str) -> MemberStatus:
        answer = await self._call(
            endpoint,
            lambda channel: rpc_pb2_grpc.MaintenanceStub(channel).Status,
            rpc_pb2.StatusRequest(),
            STATUS_TIMEOUT_S,
        )
        return MemberStatus(
            endpoint=endpoint,
            version=answer.version,
            leads=answer.leader == answer.header.member_id,
            db_size=answer.dbSize,
            db_in_use=answer.dbSizeInUse,
            no_space=any("NOSPACE" in alarm for alarm in answer.errors),
        )

    async def _call(self, endpoint: str, method: Any, request: Any, timeout_s: float) -> Any:
        return await self._members[endpoint].call(Purpose.READ, method, request, timeout_s)
