"""A TCP proxy that can lose a reply, cut every connection, or refuse them: what a network does to a client."""

import asyncio
from types import TracebackType

LINGER_S = 0.03
"""How long a connection whose reply is being lost stays open: the server has done its work by then."""


class TcpProxy:
    """`async with TcpProxy("127.0.0.1", port) as proxy:`, then connect to `proxy.endpoint`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._losing = False
        self.lost = 0

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> "TcpProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def lose_next_reply(self) -> None:
        """Swallow the next bytes any server sends, and end that connection."""
        self._losing = True

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, upstream_writer, replies=False))
                group.create_task(self._pump(upstream_reader, writer, replies=True))
        finally:
            writer.transport.abort()
            upstream_writer.transport.abort()
            self._writers -= {writer, upstream_writer}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        try:
            while data := await source.read(65536):
                if replies and self._losing:
                    self._losing = False
                    self.lost += 1
                    await asyncio.sleep(LINGER_S)
                    break
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        sink.transport.abort()
