"""Says hello, slowly if asked to, and reports where it runs."""

import os
import signal
import socket
import threading
import time
from types import FrameType

from bottle import Bottle, request, response
from waitress.server import create_server

MESSAGE = os.environ.get("MESSAGE", "Hello from Rayfold")
DRAIN_SECONDS = 8

app = Bottle()


@app.get("/")
def index() -> str:
    response.content_type = "text/plain; charset=utf-8"
    print(f"GET / from {request.get_header('user-agent', 'someone')}", flush=True)
    return f"{MESSAGE}\n"


@app.get("/where")
def where() -> dict[str, str]:
    names = ("RAYFOLD_APP", "RAYFOLD_COMPONENT", "RAYFOLD_INSTANCE", "RAYFOLD_RELEASE")
    return {name.removeprefix("RAYFOLD_").lower(): os.environ.get(name, "") for name in names}


@app.get("/slow")
def slow() -> str:
    time.sleep(min(float(request.query.get("seconds", "1")), 30))
    return "done\n"


@app.get("/healthz")
def healthz() -> str:
    return "ok\n"


class Counted:
    """WSGI middleware that counts requests under way, so that a stop can wait for the last of them."""

    def __init__(self, inner: Bottle) -> None:
        self.inner = inner
        self.count = 0
        self.changed = threading.Condition()

    def __call__(self, environ, start_response):
        with self.changed:
            self.count += 1
        try:
            return self.inner(environ, start_response)
        finally:
            with self.changed:
                self.count -= 1
                self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.count == 0, seconds)


def drain(server, counted: Counted) -> None:
    """Wait until every request is answered and every answer is sent, then end the process."""
    end = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end:
        counted.wait(end - time.monotonic())
        channels = list(server.active_channels.values())
        if not any(channel.requests or channel.total_outbufs_len for channel in channels):
            break
        time.sleep(0.01)
    print("stopped", flush=True)
    os._exit(0)


def main() -> None:
    counted = Counted(app)
    server = create_server(counted, host="127.0.0.1", port=int(os.environ["PORT"]), threads=8, ident=None)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.del_channel()  # no further connections; those that are open go on
        server.socket.shutdown(socket.SHUT_RDWR)
        threading.Thread(target=drain, args=(server, counted), daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"listening on 127.0.0.1:{os.environ['PORT']}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
