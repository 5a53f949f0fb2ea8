"""Parts of uploads on disk: dying on any line leaves a file aside or all of it, and any part may go at any time."""

import gzip
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.builder.parts import Part
from api.http.parts import ASIDE_SECONDS, KEPT_SECONDS, Parts
from api.http.uploads import PARTIAL, DigestMismatch, Uploads
from events import failpoints

KIB = 1024
NOW = time.time() - 10  # what is used while a test runs is used after it
CONTENTS = [gzip.compress(bytes([number]) * 1000, mtime=0) for number in range(5)]
WHOLE = b"".join(CONTENTS)
DIGEST = hashlib.sha256(WHOLE).hexdigest()


def named(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


WANTED = [named(content) for content in CONTENTS]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path, team_bytes=100 * KIB)


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    for name in failpoints.armed():
        failpoints.disarm(name)


def put(parts: Parts, content: bytes, team: str = "mill") -> Part:
    parts.keep(team, [content])
    return named(content)


def place(root: Path, part: Part, team: str = "mill") -> Path:
    return root / "parts" / team / part.sha256


def test_parts_are_joined_to_the_upload_that_they_are(parts: Parts, tmp_path: Path) -> None:
    for content in CONTENTS[1:]:
        put(parts, content)
    assert parts.missing("mill", [*WANTED, WANTED[0]]) == [WANTED[0].sha256], "each is told once"
    assert parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED) == [WANTED[0].sha256]
    assert not Uploads(tmp_path).has("mill", DIGEST)

    put(parts, CONTENTS[0])

    assert parts.missing("mill", WANTED) == [] == parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED)
    assert (tmp_path / DIGEST).read_bytes() == WHOLE
    assert Uploads(tmp_path).has("mill", DIGEST)
    assert parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED) == [], "again is the same"


def test_nobody_else_can_read_them(parts: Parts, tmp_path: Path) -> None:
    nowhere_yet = Parts(tmp_path / "data" / "uploads", team_bytes=1)
    put(nowhere_yet, WHOLE)
    put(parts, WHOLE)
    for path in (tmp_path / "data" / "uploads", *tmp_path.rglob("parts"), place(tmp_path, named(WHOLE)).parent):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_team_has_only_what_it_put_itself(parts: Parts) -> None:
    put(parts, WHOLE, "mill")
    assert parts.missing("forge", [named(WHOLE)]) == [named(WHOLE).sha256]


def test_parts_that_are_another_upload_are_not_joined(parts: Parts, tmp_path: Path) -> None:
    for content in CONTENTS:
        put(parts, content)
    with pytest.raises(DigestMismatch):
        parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


@pytest.mark.parametrize("damage", [b"", CONTENTS[2][:-1], bytes(len(CONTENTS[2]))], ids=["empty", "short", "zeros"])
def test_a_part_that_a_power_failure_damaged_is_asked_for_again(parts: Parts, tmp_path: Path, damage: bytes) -> None:
    for content in CONTENTS:
        put(parts, content)
    place(tmp_path, WANTED[2]).write_bytes(damage)

    assert parts.missing("mill", WANTED) == [WANTED[2].sha256] or parts.join(
        Uploads(tmp_path), "mill", DIGEST, WANTED
    ) == [WANTED[2].sha256]
    put(parts, CONTENTS[2])
    assert parts.missing("mill", WANTED) == [] == parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED)


def test_a_part_that_goes_between_the_question_and_the_joining_is_asked_for_again(parts: Parts, tmp_path: Path) -> None:
    for content in CONTENTS:
        put(parts, content)
    failpoints.arm("api.join.before-read", lambda: place(tmp_path, WANTED[4]).unlink(missing_ok=True))

    assert parts.missing("mill", WANTED) == []
    assert parts.join(Uploads(tmp_path), "mill", DIGEST, WANTED) == [WANTED[4].sha256]
    assert not (tmp_path / DIGEST).exists()


KILLED = """
import sys
from pathlib import Path
from api.http.parts import Parts
from api.http.uploads import Uploads
from tests.api.http.test_parts import CONTENTS, DIGEST, WANTED, put
root = Path(sys.argv[1])
parts = Parts(root, team_bytes=1 << 20)
for content in CONTENTS:
    put(parts, content)
parts.join(Uploads(root), "mill", DIGEST, WANTED)
"""


@pytest.mark.parametrize(
    "line", ["api.part.before-rename", "api.join.before-read", "api.join.before-keep", "api.upload.before-rename"]
)
def test_killed_on_any_line_it_leaves_files_aside_and_goes_on_the_next_time(tmp_path: Path, line: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, "RAYFOLD_FAILPOINTS": f"{line}=exit"}, check=False)
    assert killed.returncode == 137

    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(PARTIAL)]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == {path.name for path in files}
    assert not Uploads(tmp_path).has("mill", DIGEST)

    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / DIGEST).read_bytes() == WHOLE and Uploads(tmp_path).has("mill", DIGEST)
    parts = Parts(tmp_path, team_bytes=1 << 20)
    aside = list(tmp_path.rglob(PARTIAL + "*"))
    for path in aside:
        os.utime(path, (NOW, NOW))
    parts.prune_all(now=NOW + ASIDE_SECONDS - 1)
    assert list(tmp_path.rglob(PARTIAL + "*")) == aside, "somebody may still write to it"
    parts.prune_all(now=NOW + ASIDE_SECONDS + 1)
    assert not list(tmp_path.rglob(PARTIAL + "*"))
    assert (tmp_path / DIGEST).exists() and parts.missing("mill", WANTED) == []


def test_what_no_upload_has_used_for_long_goes(parts: Parts, tmp_path: Path) -> None:
    for content in CONTENTS:
        os.utime(place(tmp_path, put(parts, content)), (NOW, NOW))
    os.utime(place(tmp_path, WANTED[0]), (NOW - 1, NOW - 1))

    parts.prune_all(now=NOW + KEPT_SECONDS - 0.5)
    assert parts.missing("mill", WANTED) == [WANTED[0].sha256]

    parts.prune_all(now=NOW + KEPT_SECONDS + 1)
    assert parts.missing("mill", WANTED) == [WANTED[0].sha256], "asking for them was using them"


def test_a_teams_parts_stay_within_its_room_and_the_latest_used_stay(tmp_path: Path) -> None:
    parts = Parts(tmp_path, team_bytes=100 * KIB)
    old = [named(put_aged(parts, tmp_path, number)) for number in range(10)]
    assert parts.missing("mill", old[:1]) == [], "used: it is the latest now"

    new = put(parts, b"n" * 10 * KIB)

    assert parts.missing("mill", [*old, new]) == [old[1].sha256]
    assert parts.missing("forge", [new]) == [new.sha256]


def put_aged(parts: Parts, root: Path, number: int) -> bytes:
    content = bytes([number]) * 10 * KIB
    os.utime(place(root, put(parts, content)), (NOW - 3600 + number,) * 2)
    return content


def test_small_parts_take_a_block_each(tmp_path: Path) -> None:
    parts = Parts(tmp_path, team_bytes=100 * KIB)
    for number in range(300):
        put(parts, number.to_bytes(4, "big"))
    assert len(list((tmp_path / "parts" / "mill").iterdir())) <= 27
