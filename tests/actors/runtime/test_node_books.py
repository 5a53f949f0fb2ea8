"""A node's books and layout: user numbers, ports, artifacts, and how a command line becomes a shell line."""

import io
import os
import socket
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from actors.runtime.artifacts import lay_out
from actors.runtime.command import shell_line
from actors.runtime.errors import ArtifactRefused, NodeNotUsable
from actors.runtime.ports import PortBook, port_range
from actors.runtime.users import FIRST_UID, Owner, UserBook

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: user numbers are given out by root only")
ME = Owner(uid=os.geteuid(), gid=os.getegid())


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


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


@pytest.mark.parametrize("packed", [False, True])
def test_an_artifact_is_laid_out_from_a_tar(tmp_path: Path, packed: bool) -> None:
    content = _tar(
        (_member("bin/run", mode=0o4777), b"#!/bin/sh\n"),
        (_member("lib", tarfile.DIRTYPE), b""),
        (_member("python", tarfile.SYMTYPE, link="/usr/bin/python3"), b""),
        (_member("copy", tarfile.LNKTYPE, link="bin/run"), b""),
    )
    (tmp_path / "a.tar").write_bytes(zstandard.compress(content) if packed else content)
    path = lay_out(tmp_path / "out" / "d1", tmp_path / "a.tar", ME)

    assert (path / "bin" / "run").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(path / "python") == "/usr/bin/python3"
    assert (path / "copy").read_bytes() == b"#!/bin/sh\n"
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["d1"]


@pytest.mark.parametrize(
    "members",
    [
        [_member("../outside")],
        [_member("/outside")],
        [_member("a/../../outside")],
        [_member("hard", tarfile.LNKTYPE, link="../../etc/passwd")],
        [_member("device", tarfile.CHRTYPE)],
        [_member("pipe", tarfile.FIFOTYPE)],
    ],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    (tmp_path / "a.tar").write_bytes(_tar(*((member, b"") for member in members)))
    with pytest.raises(ArtifactRefused):
        lay_out(tmp_path / "out" / "d1", tmp_path / "a.tar", ME)

    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    content = _tar((_member("a", tarfile.SYMTYPE, link=str(victim)), b""), (_member("a/planted"), b"x"))
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises((ArtifactRefused, FileExistsError)):
        lay_out(tmp_path / "out" / "d1", tmp_path / "a.tar", ME)

    assert list(victim.iterdir()) == []
