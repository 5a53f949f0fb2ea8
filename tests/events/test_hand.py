"""What a process had in hand when it was killed is known to the next one; whatever else the file holds is nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from events.hand import HAND_BYTES, Hand

KILLED = """
import os, signal, sys
from pathlib import Path
from events.hand import Hand

hand = Hand(Path(sys.argv[1]))
for words in sys.argv[2].split(","):
    hand.take(words.encode()) if words else hand.put_down()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(file: Path, words: str) -> None:
    """A process that takes one after the other in hand, and is killed."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(file), words], env=env, timeout=60, check=False)
    assert done.returncode == -9


def test_what_was_in_hand_when_the_process_was_killed_is_left_once(tmp_path: Path) -> None:
    file = tmp_path / "a.hand"
    killed(file, "a longer one,short")
    assert Hand(file).left == b"short"
    assert Hand(file).left == b""


def test_what_was_put_down_is_not_left(tmp_path: Path) -> None:
    file = tmp_path / "a.hand"
    killed(file, "survived,")
    assert Hand(file).left == b""


def test_without_a_file_nothing_is_left() -> None:
    hand = Hand()
    hand.take(b"something")
    hand.put_down()
    assert Hand().left == b""


def test_where_no_file_can_be_had_the_work_goes_on(tmp_path: Path) -> None:
    hand = Hand(tmp_path / "missing" / "a.hand")
    hand.take(b"something")
    hand.put_down()
    assert hand.left == b""


def test_what_is_longer_than_the_file_is_not_noted(tmp_path: Path) -> None:
    file = tmp_path / "a.hand"
    hand = Hand(file)
    hand.take(b"before")
    hand.take(b"x" * HAND_BYTES)
    assert Hand(file).left == b""


OLD_FORMAT = len("team/sick").to_bytes(2) + b"team/sick"


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: b"",
        lambda found: found[:3],
        lambda found: found[:10],
        lambda found: b"\xff" * HAND_BYTES,
        lambda found: found[:12] + b"?" + found[13:],
        lambda found: bytes([found[0] + 1]) + found[1:],
        lambda found: found[:4] + b"\0\0\0\0" + found[8:],
        lambda found: OLD_FORMAT + bytes(HAND_BYTES),
        lambda found: os.urandom(HAND_BYTES),
    ],
)
def test_a_damaged_file_holds_nothing_and_serves_again(tmp_path: Path, damage: object) -> None:
    file = tmp_path / "a.hand"
    Hand(file).take(b"team/sick")
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    hand = Hand(file)
    assert hand.left == b""
    hand.take(b"team/well")
    assert Hand(file).left == b"team/well"
