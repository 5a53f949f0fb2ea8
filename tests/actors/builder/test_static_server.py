"""The server that static sites bring along: what it serves, what it hides, how it stops."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.builder.languages import static_server
from tests.actors.builder.conftest import write_tree


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    root = write_tree(
        tmp_path / "site",
        {"index.html": "home", "docs/index.html": "docs", "empty/x.txt": "x", ".env": "SECRET", "Procfile": "web: x"},
    )
    write_tree(tmp_path, {"outside.txt": "outside"})
    (root / "link").symlink_to("../outside.txt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-I", static_server.__file__, str(root)],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "serving" in process.stdout.readline()
        yield port, process
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_files_and_directory_indexes(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, _ = server
    assert get(port, "/") == (200, b"home")
    assert get(port, "/index.html?x=1") == (200, b"home")
    assert get(port, "/docs/") == (200, b"docs")
    assert get(port, "/docs")[0] == 301
    assert get(port, "/", "HEAD") == (200, b"")
    assert get(port, "/nothing")[0] == 404
    assert get(port, "/", "POST")[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        *("/.env", "/Procfile", "/link", "/empty/", "/../outside.txt", "/%2e%2e/outside.txt"),
        *("/docs/..%2f..%2foutside.txt", "//etc/passwd", "/%00", "/./.env", "/docs/../.env"),
    ],
)
def test_what_is_hidden_or_outside_is_not_found(path: str, server: tuple[int, subprocess.Popen[str]]) -> None:
    assert get(server[0], path)[0] == 404


def test_one_connection_carries_many_requests_and_two_do_not_wait_for_each_other(
    server: tuple[int, subprocess.Popen[str]],
) -> None:
    port, _ = server
    idle = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    idle.connect()
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(3):
        kept.request("GET", "/")
        assert kept.getresponse().read() == b"home"
    idle.close()
    kept.close()


def test_sigterm_lets_idle_connections_go_and_exits_with_0(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, process = server
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    kept.request("GET", "/")
    kept.getresponse().read()

    process.send_signal(signal.SIGTERM)

    assert process.wait(5) == 0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
