"""The shim's socket: one JSON object per line in, one per line out.

Knows nothing of processes; requests are handed to an `Ending`.

    {"op": "status"}                -> {"state": "running", "pid", "started_at", "adopted", "memory_bytes", "threads"}
    {"op": "stop", "grace": 10.0}   -> {"state": "stopping"}, and the connection closes when the instance is over
    {"op": "signal", "number": 1}   -> {"state": "running", ...}
    {"op": "watch"}                 -> {"state": "running", ...}, and the connection closes when the instance is over

A closed connection means: look at the instance's directory. exit.json is there, or the shim was killed.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH101, PTH108

import json
import os
import select
import socket

from actors.runtime.shim.ending import Ending

_BACKLOG = 64
_REQUEST_BYTES_MAX = 4096
_CLIENTS_MAX = 64


class Listener:
    """Accepts, reads and answers without ever blocking."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._poll: select.epoll | None = None
        self._clients: dict[socket.socket, bytes] = {}
        try:
            os.unlink(path)  # a killed predecessor's: the lock says that nobody listens there
        except FileNotFoundError:
            pass
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(path)
        os.chmod(path, 0o600)
        self._socket.listen(_BACKLOG)

    def register(self, poll: select.epoll) -> None:
        """Wake `poll` for connections and requests from now on."""
        self._poll = poll
        poll.register(self._socket.fileno(), select.EPOLLIN)

    def serve(self, ending: Ending) -> None:
        """Take what has arrived."""
        while True:
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:
                break
            if len(self._clients) >= _CLIENTS_MAX:
                client.close()
                continue
            client.setblocking(False)
            self._clients[client] = b""
            if self._poll is not None:
                self._poll.register(client.fileno(), select.EPOLLIN)
        for client in list(self._clients):
            self._read(client, ending)

    def _read(self, client: socket.socket, ending: Ending) -> None:
        try:
            part = client.recv(_REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        pending = self._clients[client] + part
        if not part or len(pending) > _REQUEST_BYTES_MAX:
            self._forget(client)
            return
        *lines, self._clients[client] = pending.split(b"\n")
        for line in lines:
            self._answer(client, line, ending)

    def _answer(self, client: socket.socket, line: bytes, ending: Ending) -> None:
        try:
            request = json.loads(line)
            operation = request["op"]
            if operation == "stop":
                ending.stop(float(request["grace"]))
            elif operation == "signal":
                ending.signal(int(request["number"]))
            elif operation not in ("status", "watch"):
                raise ValueError(f"expected status, stop, signal or watch, found {operation!r}")
            answer = ending.status()
        except (ValueError, KeyError, TypeError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            client.send(json.dumps(answer).encode() + b"\n")
        except OSError:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        self._clients.pop(client, None)
        client.close()

    def close(self) -> None:
        """Hang up on everybody: the instance is over and recorded."""
        for client in list(self._clients):
            self._forget(client)
        self._socket.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
