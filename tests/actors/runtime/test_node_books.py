"""A node's books and layout: user numbers, ports, and how a command line becomes a shell line."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors.runtime.command import shell_line
from actors.runtime.errors import NodeNotUsable
from actors.runtime.ports import PortBook, port_range
from actors.runtime.users import FIRST_UID, UserBook

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: user numbers are given out by root only")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python app.py --port $PORT", "exec python app.py --port $PORT"),
        ("A=1 B='x y' node server.js", "A=1 B='x y' exec node server.js"),
        ("cd web && npm start", "cd web && npm start"),
        ("exec gunicorn app", "exec gunicorn app"),
        ("echo a; echo b", "echo a; echo b"),
        ("exit 3", "exit 3"),
        ("server > $HOME/log 2>&1", "server > $HOME/log 2>&1"),
        ("  server  ", "exec server"),
        ("A=1", "A=1"),
    ],
)
def test_a_simple_command_is_the_main_process_itself(command: str, expected: str) -> None:
    assert shell_line(command) == expected


@pytest.mark.root
@ROOT
def test_user_numbers_are_given_once_and_for_ever(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        owners = list(pool.map(lambda n: UserBook(tmp_path / "uids.json").owner_of("acme", f"app{n % 10}"), range(40)))

    assert len({owner.uid for owner in owners}) == 10
    assert min(owner.uid for owner in owners) == FIRST_UID
    assert UserBook(tmp_path / "uids.json").owner_of("acme", "app3") == owners[3]


@pytest.mark.root
@ROOT
def test_a_damaged_book_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "uids.json").write_text("{")
    with pytest.raises(NodeNotUsable, match="backup"):
        UserBook(tmp_path / "uids.json").owner_of("acme", "shop")


def test_a_port_is_reserved_once_and_never_one_in_use(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        busy = listener.getsockname()[1]
        ports = range(busy - 2, busy + 1)
        book = PortBook(tmp_path, host="127.0.0.1", ports=ports)
        given = []
        with pytest.raises(NodeNotUsable, match="free port"):
            while True:
                given.append(book.reserve("one"))

        assert busy not in given and len(set(given)) == len(given)
        if given:
            book.release(given[0])
            assert book.reserve("two") == given[0]


def test_ports_are_not_those_of_outgoing_connections() -> None:
    assert len(port_range()) >= 1_000


def test_a_port_that_is_in_use_at_another_address_is_none_to_listen_on_everywhere(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        busy = listener.getsockname()[1]
        book = PortBook(tmp_path, host="127.0.0.1", ports=range(busy, busy + 1))
        with pytest.raises(NodeNotUsable, match="free port"):
            book.reserve("i1")
    assert book.reserve("i1") == busy
