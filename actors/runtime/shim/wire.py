"""The shim's socket: one JSON object per line in, one per line out.

Knows nothing of processes; requests are handed to an `Ending`.

    {"op": "status"}                -> {"state": "running", "pid", "started_at", "adopted", "memory_bytes", "threads"}
    {"op": "stop", "grace": 10.0}   -> {"state": "stopping"}, and the connection closes when the instance is over
    {"op": "signal", "number": 1}   -> {"state": "running", ...}
    {"op": "watch"}                 -> {"state": "running", ...}, and the connection closes when the instance is over

A closed connection means: look at the instance's directory. exit.json is there, or the shim was killed.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH101, PTH103, PTH104, PTH108, PTH110, PTH120

import json
import os
import select
import socket

from actors.runtime.shim.ending import Ending

_BACKLOG = 64
_REQUEST_BYTES_MAX = 4096
_CLIENTS_MAX = 64


def answers(path: str) -> bool:
    """Whether a shim listens at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


class Listener:
    """Accepts, reads and answers without ever blocking."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._poll: select.epoll | None = None
        self._clients: dict[socket.socket, bytes] = {}
        self._socket = self._bound()

    def _bound(self) -> socket.socket:
        os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
        draft = self._path.removesuffix("s") + "n"
        try:
            os.unlink(draft)
        except FileNotFoundError:
            pass
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.setblocking(False)
        bound.bind(draft)
        os.chmod(draft, 0o600)
        bound.listen(_BACKLOG)
        # Into place once it listens, over a killed predecessor's: the lock says that nobody listens there.
        os.rename(draft, self._path)
        return bound

    def register(self, poll: select.epoll) -> None:
        """Wake `poll` for connections and requests from now on."""
        self._poll = poll
        poll.register(self._socket.fileno(), select.EPOLLIN)

    def serve(self, ending: Ending) -> None:
        """Take what has arrived."""
        if not os.path.exists(self._path) and self._poll is not None:
            # A cleaner of temporary directories took the socket: without it nobody could stop the instance.
            self._socket.close()
            self._socket = self._bound()
            self.register(self._poll)
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
