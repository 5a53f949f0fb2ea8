"""One writer a stream: what a claim takes over, and what its last owner may still do, which is nothing that counts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.logs.claim import Membership, owner_of, streams_in
from actors.logs.errors import LogError, StreamMoved
from actors.logs.filter import LineFilter
from actors.logs.line import Batch, LineRecord
from actors.logs.reader import forward
from actors.logs.segment import list_segments
from actors.logs.stream import StreamLog
from actors.logs.view import Appended, StoreLimits, StreamView

STREAM = "build/b-1"


class Member:
    """A process of the pool, as far as one stream goes."""

    def __init__(self, root: Path, name: str) -> None:
        self.membership = Membership(root, name)
        self.membership.enter()
        self.log = StreamLog(STREAM, root, self.membership, StoreLimits(segment_bytes=2_000))
        self.sent = 0

    def append(self, *texts: str, after: int) -> Appended | LogError:
        lines = [LineRecord(at=5, text=text) for text in texts]
        batch = Batch.of("source", lines, after=after, upto=after + len(texts))
        return self.log.append([batch])[0]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[tuple[Member, Member]]:
    pair = Member(tmp_path, "eventlog-0"), Member(tmp_path, "eventlog-1")
    yield pair
    for member in pair:
        member.log.release()
        member.membership.leave()


def texts(view: StreamView) -> list[str]:
    return [line.text for line in forward(view, 1, limit=1_000, flt=LineFilter()).lines]


def test_a_claim_takes_over_every_acknowledged_line_and_the_place_in_the_source(
    members: tuple[Member, Member],
) -> None:
    first, second = members
    assert first.append("a", "b", after=0) == Appended(first=1, next_number=3)
    assert texts(second.log.open()) == ["a", "b"]
    assert second.append("a", "b", after=0) == Appended(first=3, next_number=3, duplicate=True)
    assert second.append("c", after=2) == Appended(first=3, next_number=4)


def test_the_last_owner_answers_for_nothing_and_changes_nothing(members: tuple[Member, Member], tmp_path: Path) -> None:
    first, second = members
    first.append("a", after=0)
    second.log.open()
    with pytest.raises(StreamMoved):
        first.append("stale", after=1)
    second.append("b", after=1)
    assert texts(second.log.open()) == ["a", "b"]
    assert owner_of(tmp_path, STREAM) == second.membership.owner and streams_in(tmp_path) == [STREAM]


def test_a_write_under_way_while_another_claims_lands_nowhere(
    members: tuple[Member, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = members
    first.append("a", after=0)

    def claimed_meanwhile(name: str) -> None:
        if name == "logs.before-fsync":
            monkeypatch.undo()
            assert texts(second.log.open())[:1] == ["a"]
            second.append("mine", after=second.log.position("source") or 0)

    monkeypatch.setattr("actors.logs.stream.failpoint", claimed_meanwhile)
    with pytest.raises(StreamMoved):
        first.append("b", after=1)
    # The bytes were in the file when it was read, so they may be there; nobody was told that they are.
    assert texts(second.log.open()) in (["a", "mine"], ["a", "b", "mine"])


def test_a_roll_of_the_last_owner_makes_no_segment(members: tuple[Member, Member]) -> None:
    first, second = members
    first.append("x" * 2_500, after=0)
    segments = list_segments(second.log.open().extents and Path(second.log.view().extents[0].path).parent)
    with pytest.raises(StreamMoved):
        first.append("stale", after=1)
    assert list_segments(segments[0].parent) == segments


def test_the_segment_of_a_dead_owner_is_gone_on_with_as_it_is(members: tuple[Member, Member]) -> None:
    first, second = members
    first.append("a", after=0)
    inode = Path(first.log.view().extents[0].path).stat().st_ino
    first.membership.leave()
    assert Path(second.log.open().extents[0].path).stat().st_ino == inode


def test_who_crashes_in_the_middle_of_a_claim_leaves_the_last_owner_known(
    members: tuple[Member, Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = members
    first.append("a", after=0)

    def crash(name: str) -> None:
        if name == "logs.claimed":
            raise KeyboardInterrupt

    monkeypatch.setattr("actors.logs.claim.failpoint", crash)
    with pytest.raises(KeyboardInterrupt):
        second.log.open()
    monkeypatch.undo()
    third = Member(tmp_path, "eventlog-2")
    assert texts(third.log.open()) == ["a"]
    with pytest.raises(StreamMoved):
        first.append("stale", after=1)
    assert texts(third.log.open()) == ["a"]
    third.log.release()
    third.membership.leave()


def test_who_is_given_a_stream_is_known_before_it_has_claimed_it(
    members: tuple[Member, Member], tmp_path: Path
) -> None:
    first, second = members
    first.append("a", after=0)
    first.log.give("eventlog-1")
    owner = owner_of(tmp_path, STREAM)
    assert owner is not None and owner.member == "eventlog-1"
    assert second.append("b", after=1) == Appended(first=2, next_number=3)
    assert texts(second.log.view()) == ["a", "b"]


def test_streams_from_before_there_were_claims_are_read_on(members: tuple[Member, Member], tmp_path: Path) -> None:
    first, second = members
    first.append("a", after=0)
    directory = Path(first.log.view().extents[0].path).parent
    (directory / "owner").unlink()
    directory.rename(directory.with_name("build@b-1"))
    assert owner_of(tmp_path, STREAM) is None and streams_in(tmp_path) == [STREAM]
    assert texts(second.log.open()) == ["a"]
