"""Runs as an application: tries what the body of a POST lists, as the user it is, and says what came of each attempt.

Standard library only, and grpc where it is handed one; knows nothing of what it tries to reach.
"""

import errno
import http.client as http_client
import json
import os
import socket
import ssl
import stat
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECONDS = 3.0
Attempt = dict[str, Any]


def read(attempt: Attempt) -> Any:
    """Those of `paths` that can be read, or listed."""
    return [path for path in attempt["paths"] if _readable(path)]


def _readable(path: str) -> bool:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        elif stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
        else:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                file.read(1)
        return True
    except OSError:
        return False


def write(attempt: Attempt) -> Any:
    """Those of `paths` (directories) in which a file can be made, or that are files which can be opened for writing."""
    found = []
    for path in attempt["paths"]:
        try:
            if os.path.isdir(path):
                name = os.path.join(path, f"probe-{os.getpid()}")
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
                os.unlink(name)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            found.append(path)
        except OSError:
            continue
    return found


def kill(attempt: Attempt) -> Any:
    """Those of `pids` that can be signalled."""
    found = []
    for pid in attempt["pids"]:
        try:
            os.kill(pid, 0)
            found.append(pid)
        except OSError:
            continue
    return found


def http(attempt: Attempt) -> Any:
    """Status of a request, or the error."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{attempt['port']}{attempt['path']}",
        method=attempt.get("method", "GET"),
        headers=attempt.get("headers", {}),
        data=b"{}" if attempt.get("method") == "POST" else None,
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def tls(attempt: Attempt) -> Any:
    """What a TLS server answers to one without a certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", attempt["port"]), SECONDS)
    with context.wrap_socket(plain) as client:
        client.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(1000).decode("latin-1")


def frame(attempt: Attempt) -> Any:
    """What a server answers to bytes given in hex."""
    with socket.create_connection(("127.0.0.1", attempt["port"]), SECONDS) as client:
        client.settimeout(SECONDS)
        client.sendall(bytes.fromhex(attempt["hex"]))
        return client.recv(1000).decode("latin-1")


def grpc_call(attempt: Attempt) -> Any:
    """Status by `port method`, of calls without a token."""
    sys.path.insert(0, attempt["library"])
    import grpc

    found = {}
    for port in attempt["ports"]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in attempt["methods"]:
                try:
                    channel.unary_unary(method, None, None)(b"", timeout=SECONDS)
                    found[f"{port} {method}"] = "OK"
                except grpc.RpcError as error:
                    found[f"{port} {method}"] = error.code().name
    return found


def self(attempt: Attempt) -> Any:
    """What it is: user, privileges, descriptors, environment."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    # The listening socket and the connection of this very request are its own.
    links = {fd: _link(fd) for fd in os.listdir("/proc/self/fd")}
    return {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
        "no_new_privs": status["NoNewPrivs"],
        "capabilities": status["CapEff"],
        "descriptors": {fd: link for fd, link in links.items() if link},
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
    }


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


KINDS = {
    "read": read, "write": write, "kill": kill, "http": http, "tls": tls, "frame": frame, "grpc": grpc_call,
    "self": self,
}  # fmt: skip


def tried(attempt: Attempt) -> Any:
    """What came of an attempt; an error as its name."""
    try:
        return KINDS[attempt["kind"]](attempt)
    except (OSError, http_client.HTTPException) as error:
        if not isinstance(error, OSError):
            return f"{type(error).__name__}: {error}"
        return f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, '')}: {error}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        attempts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps([tried(attempt) for attempt in attempts]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
