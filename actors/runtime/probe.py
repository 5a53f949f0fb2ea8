"""Asks an instance whether it is ready: over HTTP, by connecting, or by staying alive.

Knows addresses and the `Runtime` port; nothing of releases, routes or what readiness leads to.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from actors.runtime.errors import InvalidSpec
from actors.runtime.port import InstanceState, Runtime

_STATUS_LINE_BYTES_MAX = 8192
_PAUSE_SECONDS_FIRST = 0.02
_PAUSE_SECONDS_MAX = 0.25


class HttpProbe(msgspec.Struct, frozen=True, kw_only=True, tag="http"):
    """Ready when GET `path` answers 200 to 399."""

    path: str = "/"


class TcpProbe(msgspec.Struct, frozen=True, kw_only=True, tag="tcp"):
    """Ready when the port accepts a connection."""


class AliveProbe(msgspec.Struct, frozen=True, kw_only=True, tag="alive"):
    """Ready when it has run for `seconds`: for processes without a port."""

    seconds: float = 1.0


Probe = HttpProbe | TcpProbe | AliveProbe


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found; `detail` says it in words."""

    ready: bool
    detail: str
    over: bool = False
    """The instance is no longer running, so waiting longer changes nothing."""


async def check(probe: HttpProbe | TcpProbe, *, host: str, port: int, timeout_seconds: float = 1.0) -> ProbeResult:
    """Ask once. Raises InvalidSpec for a path that is none."""
    if isinstance(probe, HttpProbe) and (not probe.path.startswith("/") or not probe.path.isprintable()):
        raise InvalidSpec(f"expected a probe path that begins with '/', found {probe.path!r}")
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port, limit=_STATUS_LINE_BYTES_MAX)
            try:
                if isinstance(probe, TcpProbe):
                    return ProbeResult(ready=True, detail=f"port {port} accepts connections")
                writer.write(_request(probe.path, host, port))
                return _judge(probe.path, await reader.readline())
            finally:
                writer.close()
    except TimeoutError:
        return ProbeResult(ready=False, detail=f"no answer on port {port} within {timeout_seconds} s")
    except (OSError, ValueError) as error:
        return ProbeResult(ready=False, detail=f"port {port}: {error}")


def _request(path: str, host: str, port: int) -> bytes:
    target = path.replace(" ", "%20").encode()
    return b"GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: rayfold-probe\r\nConnection: close\r\n\r\n" % (
        target,
        host.encode(),
        port,
    )


def _judge(path: str, line: bytes) -> ProbeResult:
    fields = line.split(maxsplit=2)
    if len(fields) < 2 or not fields[0].startswith(b"HTTP/") or not fields[1].isdigit():
        return ProbeResult(ready=False, detail=f"expected an HTTP answer to GET {path}, found {line[:80]!r}")
    status = int(fields[1])
    return ProbeResult(ready=200 <= status < 400, detail=f"GET {path} answered {status}")


async def wait_ready(runtime: Runtime, instance_id: str, probe: Probe, *, timeout_seconds: float) -> ProbeResult:
    """Ask until it is ready, over, or the time is up; the last answer tells why not. Raises InstanceNotFound.

    The time counts from when its command may run: a start that was cut off before that will be ordered again.
    """
    loop = asyncio.get_running_loop()
    # What never ran is not alive: told ready, it would be owed no start any more and never run at all.
    while (await runtime.status(instance_id)).state is InstanceState.STARTING:  # noqa: ASYNC110 - its shim tells nobody
        await asyncio.sleep(_PAUSE_SECONDS_MAX)
    deadline = loop.time() + timeout_seconds
    pause = _PAUSE_SECONDS_FIRST
    ask = _asker(runtime, instance_id, probe)
    while True:
        result = await ask(max(deadline - loop.time(), 0.01))
        if result.ready or result.over:
            return result
        if loop.time() + pause >= deadline:
            return msgspec.structs.replace(result, detail=f"not ready within {timeout_seconds} s: {result.detail}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _PAUSE_SECONDS_MAX)


def _asker(runtime: Runtime, instance_id: str, probe: Probe) -> Callable[[float], Awaitable[ProbeResult]]:
    started = asyncio.get_running_loop().time()

    async def _ask(left_seconds: float) -> ProbeResult:
        status = await runtime.status(instance_id)
        if status.state in (InstanceState.EXITED, InstanceState.LOST):
            return ProbeResult(ready=False, over=True, detail=status.reason)
        if isinstance(probe, AliveProbe):
            ran = asyncio.get_running_loop().time() - started
            return ProbeResult(ready=ran >= probe.seconds, detail=f"has run for {ran:.1f} of {probe.seconds} s")
        if status.port is None:
            raise InvalidSpec(f"expected {instance_id} to have a port to probe, found none; set wants_port")
        return await check(probe, host=status.host, port=status.port, timeout_seconds=min(left_seconds, 1.0))

    return _ask
