"""The xDS server as a connection sees it, frame by frame."""

import asyncio
import tempfile
from pathlib import Path

from actors.gateway.xds import XdsServer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7  # RFC 9113, section 6
ACK = 1
PINGS = 20  # of a default gRPC server's patience, two in five minutes, many times


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


async def read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Kind, flags and payload of the next frame."""
    head = await reader.readexactly(9)
    return head[3], head[4], await reader.readexactly(int.from_bytes(head[:3], "big"))


async def test_envoy_may_ask_whether_the_server_lives_as_often_as_it_likes() -> None:
    with tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp") as directory:  # socket paths are short
        server = XdsServer(Path(directory) / "xds.sock")
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(Path(directory) / "xds.sock")
            writer.write(PREFACE + frame(SETTINGS))
            answered = 0
            async with asyncio.timeout(20):
                while answered < PINGS:
                    writer.write(frame(PING, answered.to_bytes(8, "big")))
                    while True:
                        kind, flags, payload = await read(reader)
                        assert kind != GOAWAY, payload
                        if (kind, flags) == (PING, ACK):
                            break
                    assert payload == answered.to_bytes(8, "big")
                    answered += 1
            writer.close()
        finally:
            await server.stop()
