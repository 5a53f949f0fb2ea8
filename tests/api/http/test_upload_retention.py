"""Uploads that nobody used for a time go; what is used, needed or half written stays, wherever the round dies."""

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from actors.builder.uploads import OUTPUT_KEPT_SECONDS, prune_outputs, prune_uploads
from api.http.uploads import Uploads
from events.failpoints import FailpointError, arm, disarm

HOUR = 3600.0


class Room:
    """A directory of uploads, some of them old."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads = Uploads(root)

    def put(self, content: bytes, *teams: str, age: float = HOUR) -> str:
        digest = hashlib.sha256(content).hexdigest()
        for team in teams:
            writing = self.uploads.begin()
            writing.write(content)
            self.uploads.keep(writing, team, digest)
        then = time.time() - age
        for path in (self.root / digest, *(self.root / "teams" / team / digest for team in teams)):
            os.utime(path, (then, then))
        return digest

    def prune(self, *needed: str, before: float | None = None) -> tuple[int, int]:
        return prune_uploads(self.root, needed=needed, before=time.time() - 60 if before is None else before)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "uploads")


def test_what_was_not_used_for_long_goes_with_its_marks_and_is_counted(room: Room) -> None:
    old, young = room.put(b"old", "mill", "shop"), room.put(b"young", "mill", age=1)
    assert room.prune() == (1, 3)
    assert room.files() == {young, f"teams/mill/{young}"}
    assert not room.uploads.has("mill", old) and room.uploads.has("mill", young)
    assert room.prune() == (0, 0)


def test_what_a_build_on_its_way_is_made_of_stays(room: Room) -> None:
    needed = room.put(b"needed", "mill")
    assert room.prune(needed) == (0, 0)
    assert room.uploads.has("mill", needed)


def test_asking_for_it_is_using_it_and_one_teams_use_does_not_renew_anothers_mark(room: Room) -> None:
    digest = room.put(b"shared", "mill", "shop")
    assert room.uploads.has("mill", digest)
    assert room.prune() == (0, 0)
    assert room.files() == {digest, f"teams/mill/{digest}"}


def test_what_is_half_written_and_parts_are_their_writers(room: Room) -> None:
    writing = room.uploads.begin()
    writing.write(b"half")
    part = room.root / "parts" / "mill" / ("a" * 64)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"part")
    for path in (writing.path, part):
        os.utime(path, (0, 0))
    before = room.files()
    assert room.prune() == (0, 0)
    assert room.files() == before


def test_a_round_that_dies_is_ended_by_the_next(room: Room) -> None:
    for number in range(3):
        room.put(bytes([number]), "mill")
    calls = 0

    def die_on_the_second() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise FailpointError("builder-upload-going")

    arm("builder-upload-going", die_on_the_second)
    try:
        with pytest.raises(FailpointError):
            room.prune()
    finally:
        disarm("builder-upload-going")
    assert len([name for name in room.files() if "/" not in name]) == 2
    room.prune()
    assert room.files() == set()


def test_an_upload_that_was_said_to_be_there_is_there(room: Room) -> None:
    digests = [room.put(bytes([number]), "mill") for number in range(200)]
    told: list[str] = []

    def ask() -> None:
        told.extend(digest for digest in reversed(digests) if room.uploads.has("mill", digest))

    asking = threading.Thread(target=ask)
    asking.start()
    room.prune()
    asking.join()
    assert set(told) <= {name for name in room.files() if "/" not in name}


def test_a_place_where_nothing_was_uploaded_is_in_nobodys_way(room: Room) -> None:
    assert room.prune() == (0, 0)
    assert not room.uploads.has("mill", "a" * 64)


def test_copies_of_outputs_go_a_month_after_their_last_line(tmp_path: Path) -> None:
    for name in ("old.log", "young.log", "running.log", "other"):
        (tmp_path / name).write_text("x")
        if name != "young.log":
            os.utime(tmp_path / name, (0, 0))
    now = (tmp_path / "young.log").stat().st_mtime + OUTPUT_KEPT_SECONDS - 1
    assert prune_outputs(tmp_path, running=["running"], now=now) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "running.log", "young.log"]
