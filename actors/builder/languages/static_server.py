"""Serves a directory of files over HTTP/1.1 on 127.0.0.1:$PORT, for static sites; copied into their artifacts.

Standard library only, because it runs with the application's interpreter; it must not know of the platform. It serves
no dot files and none of the files that say how to build, follows no link out of the directory, and on SIGTERM stops
accepting, finishes the requests under way and exits with 0.
"""

import os
import posixpath
import signal
import sys
import threading
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from urllib.parse import unquote, urlsplit

_HIDDEN = frozenset({"Procfile", "rayfold.toml"})
_IDLE_SECONDS = 30
_DRAIN_SECONDS = 8  # less than the platform's grace period of 10 s


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD of files below the root."""

    protocol_version = "HTTP/1.1"
    server_version = "rayfold-static"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: "Server"

    def translate_path(self, path: str) -> str:
        """The file for a request path; one that cannot exist for what is hidden or outside."""
        refused = str(self.server.root / "\u0001")
        plain = unquote(urlsplit(path).path)
        names = [name for name in posixpath.normpath(plain).split("/") if name and name != "."]
        if "\0" in plain or any(name.startswith(".") or name in _HIDDEN for name in names):
            return refused
        found = Path(os.path.realpath(self.server.root.joinpath(*names)))
        if not found.is_relative_to(self.server.root):
            return refused
        if self.server.fall_back and not found.exists() and "." not in posixpath.basename(plain):
            return str(self.server.root / "index.html")
        return str(found) + ("/" if plain.endswith("/") and names else "")

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """A directory without index.html has nothing to show."""
        del path
        self.send_error(HTTPStatus.NOT_FOUND, "File not found")

    def setup(self) -> None:
        """A connection that was just accepted most likely brings a request: it counts as busy."""
        super().setup()
        self.server.busy(self.connection.fileno(), True)

    def handle_one_request(self) -> None:
        """Count requests under way, and close the connection after one when the server is stopping."""
        number = self.connection.fileno()
        try:
            super().handle_one_request()
            if self.server.stopping.is_set():
                self.close_connection = True
        finally:
            self.server.busy(number, False)

    def parse_request(self) -> bool:
        """Mark the connection busy from the moment a request line was read."""
        self.server.busy(self.connection.fileno(), True)
        return super().parse_request()

    def end_headers(self) -> None:
        """Say so when this is the connection's last answer."""
        if self.server.stopping.is_set():
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """One line per request on standard output."""
        sys.stdout.write(f"{self.command or '-'} {self.path if self.command else '-'} {format % args}\n")
        sys.stdout.flush()


class Server(ThreadingHTTPServer):
    """Threads per connection; knows which connections are in the middle of a request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], root: Path, *, fall_back: bool) -> None:
        self.root = root
        self.fall_back = fall_back
        self.stopping = threading.Event()
        self._lock = threading.Condition()
        self._busy: set[int] = set()
        super().__init__(address, Handler)

    def busy(self, connection: int, state: bool) -> None:
        """Note whether `connection` (its file number) is in the middle of a request."""
        with self._lock:
            (self._busy.add if state else self._busy.discard)(connection)
            self._lock.notify_all()

    def drain(self, seconds: float) -> None:
        """Wait until no request is under way."""
        with self._lock:
            self._lock.wait_for(lambda: not self._busy, seconds)


def main() -> int:
    """Serve the directory named by the first argument until SIGTERM or SIGINT.

    With `--fall-back` a path without a file and without an ending is index.html's: a site that routes in the browser.
    """
    fall_back = "--fall-back" in sys.argv
    directories = [argument for argument in sys.argv[1:] if argument != "--fall-back"]
    root = Path(os.path.realpath(directories[0] if directories else "."))
    server = Server(("127.0.0.1", int(os.environ["PORT"])), root, fall_back=fall_back)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.stopping.set()
        # shutdown() waits for the serving loop, which this handler interrupts: another thread has to call it.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    sys.stdout.write(f"serving {root} on 127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.1)
    server.socket.close()
    server.drain(_DRAIN_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
