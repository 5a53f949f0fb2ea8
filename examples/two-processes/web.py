"""The process that answers requests: standard library only, and it finishes what it began before it stops."""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds for a client to send its request

    def do_GET(self) -> None:
        body = f"web of {os.environ.get('RAYFOLD_APP', 'two-processes')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
server.daemon_threads = False  # server_close() then waits for the requests under way


def stop(*_: object) -> None:
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
print(f"web listens on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever(poll_interval=0.1)
server.server_close()
sys.exit(0)
