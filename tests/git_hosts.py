"""Git hosts that ask who comes: git's own http-backend behind passwords, and a real sshd."""

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from actors.builder.ssh_keys import KeyPair, make_pair

_START_SECONDS = 20.0


class HttpHost:
    """Serves the repositories below `root` to whoever has the password of the first directory in the path.

    `passwords`: first directory → user:password; `redirects`: a path's beginning → what stands there instead;
    `echoes`: refuses everybody and repeats the password in its answer. `asked`: (path, user:password) of each request.
    `look` is called while a request that was let in waits.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passwords: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.echoes = False
        self.redirects_known = False
        """Only those who were let in are redirected."""
        self.asked: list[tuple[str, str]] = []
        self.look: Callable[[], None] = lambda: None
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        given = request.headers.get("Authorization", "")
        given = base64.b64decode(given.removeprefix("Basic ")).decode() if given else ""
        self.asked.append((request.path, given))
        path, _, query = request.path.partition("?")
        there = next((to + path.removeprefix(of) for of, to in self.redirects.items() if path.startswith(of)), None)
        wanted = self.passwords.get(path.split("/")[1], "")
        let_in = given == wanted
        if self.echoes and given:
            told = f"the token {given.partition(':')[2]} may not, nor {base64.b64encode(given.encode()).decode()}\n"
            self._send(request, 403, {"Content-Type": "text/plain"}, told.encode())
        elif there and (let_in or not self.redirects_known):
            self._send(request, 302, {"Location": f"{there}?{query}"}, b"")
        elif not let_in:
            self._send(request, 401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        else:
            self.look()
            self._run(request, path, query, body)

    def _run(self, request: BaseHTTPRequestHandler, path: str, query: str, body: bytes) -> None:
        backend = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
        env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        done = subprocess.run([f"{backend}/git-http-backend"], input=body, env=env, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._send(request, status, headers, content)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def http_host(root: Path) -> Iterator[HttpHost]:
    """Up inside the with; `root` holds the repositories."""
    host = HttpHost(root)
    thread = threading.Thread(target=host.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()


class SshHost:
    """A sshd of our own that lets in who has a key of `authorized_keys`. `seen`: a file with the command line of every
    process there was when somebody came in, appended to by each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = make_pair()
        self.seen = directory / "seen"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.user = os.environ.get("USER") or "root"

    def url(self, path: Path) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    @property
    def name(self) -> str:
        """As a known_hosts has it."""
        return f"[127.0.0.1]:{self.port}"

    def let_in(self, pair: KeyPair) -> None:
        with (self.directory / "authorized_keys").open("a") as file:
            file.write(f"{pair.public}\n")

    def start(self) -> subprocess.Popen[bytes]:
        here = self.directory
        (here / "host_key").touch(mode=0o600)
        (here / "host_key").write_text(self.key.private)
        (here / "authorized_keys").touch(mode=0o600)
        look = here / "look"
        look.write_text(f'#!/bin/sh\ncat /proc/[0-9]*/cmdline >> {self.seen}\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        look.chmod(0o755)
        (here / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {here}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {here}/authorized_keys\nStrictModes no\nPermitRootLogin yes\nForceCommand {look}\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )
        sshd = shutil.which("sshd")
        assert sshd is not None
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd does not start without it, and Debian's own start makes it
        return subprocess.Popen([sshd, "-D", "-e", "-f", str(here / "config")], stderr=(here / "log").open("wb"))


@contextmanager
def ssh_host(directory: Path) -> Iterator[SshHost]:
    """Up inside the with."""
    host = SshHost(directory)
    process = host.start()
    try:
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", host.port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (directory / "log").read_text()
        yield host
    finally:
        process.kill()
        process.wait()
