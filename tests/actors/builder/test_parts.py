"""An archive is cut into parts: joined they are the archive, a change in one place leaves the others as they are."""

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.builder.model import BuildLimits
from actors.builder.pack import PackedSource, pack_directory
from actors.builder.parts import LEAST_BYTES, MOST_BYTES, PartedFile
from actors.builder.sources import extract_upload

WORDS = ("import", "os", "return", "self", "value", "for", "each", "in", "path", "def", "class", "if", "None", "read")


def text(seed: int, lines: int) -> str:
    """Lines as a program has them: few different words, some lines often."""
    rng = random.Random(seed)
    return "".join(" ".join(rng.choices(WORDS, k=rng.randrange(7))) + "\n" for _ in range(lines))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand small files, a large text and a large file that cannot be compressed: some 6 MB."""
    root = tmp_path_factory.mktemp("tree")
    for number in range(1000):
        place = root / f"package{number % 31}"
        place.mkdir(exist_ok=True)
        (place / f"module{number}.py").write_text(text(number, 60))
    (root / "large.txt").write_text(text(-1, 60_000))
    (root / "large.bin").write_bytes(random.Random(0).randbytes(1_500_000))
    return root


def packed(tree: Path, out: Path) -> PackedSource:
    out.unlink(missing_ok=True)
    return pack_directory(tree, out)


def new_parts(before: PackedSource, after: PackedSource) -> int:
    return len({part.sha256 for part in after.parts} - {part.sha256 for part in before.parts})


def pieces(source: PackedSource) -> list[bytes]:
    content, found = source.path.read_bytes(), []
    for part in source.parts:
        found.append(content[: part.size_bytes])
        content = content[part.size_bytes :]
    assert content == b""
    return found


def test_parts_one_behind_the_other_are_an_ordinary_archive(tree: Path, tmp_path: Path) -> None:
    source = packed(tree, tmp_path / "out")

    assert len(source.parts) > 20
    for part, piece in zip(source.parts, pieces(source), strict=True):
        assert hashlib.sha256(piece).hexdigest() == part.sha256
        assert 0 < len(gzip.decompress(piece)) < MOST_BYTES + 1
    assert hashlib.sha256(source.path.read_bytes()).hexdigest() == source.digest
    assert source.path.stat().st_size == source.size_bytes
    with tarfile.open(source.path) as archive:
        members = {member.name: member.size for member in archive}
        assert archive.extractfile("large.bin").read() == (tree / "large.bin").read_bytes()  # type: ignore[union-attr]
    assert members == {str(p.relative_to(tree)): p.stat().st_size for p in tree.rglob("*") if p.is_file()}


def test_a_builder_reads_it(tree: Path, tmp_path: Path) -> None:
    source = packed(tree, tmp_path / "out")

    extract_upload(source.path, source.digest, tmp_path / "src", BuildLimits())

    for path in (path for path in tree.rglob("*") if path.is_file()):
        assert (tmp_path / "src" / path.relative_to(tree)).read_bytes() == path.read_bytes()


def test_the_same_content_is_cut_the_same(tree: Path, tmp_path: Path) -> None:
    assert packed(tree, tmp_path / "one").parts == packed(tree, tmp_path / "two").parts


@pytest.mark.parametrize("name", ["package7/module100.py", "large.txt", "large.bin"])
@pytest.mark.parametrize("change", ["a byte", "more", "less"])
def test_a_change_in_one_file_makes_few_new_parts(tree: Path, tmp_path: Path, name: str, change: str) -> None:
    before = packed(tree, tmp_path / "before")
    path, content = tree / name, (tree / name).read_bytes()
    middle = len(content) // 2
    changed = {
        "a byte": b"#" + content[middle + 1 :],
        "more": b"#" * 99 + content[middle:],
        "less": content[middle + 99 :],
    }
    try:
        path.write_bytes(content[:middle] + changed[change])
        after = packed(tree, tmp_path / "after")
    finally:
        path.write_bytes(content)

    # Where it is, and at most some until cuts fall together again. A file's size is in its header: a part of its own.
    assert 1 <= new_parts(before, after) <= 6


def test_a_file_that_comes_or_goes_makes_few_new_parts(tree: Path, tmp_path: Path) -> None:
    before = packed(tree, tmp_path / "before")
    path = tree / "package15" / "another.py"
    path.write_text(text(5000, 400))
    try:
        after = packed(tree, tmp_path / "after")
    finally:
        path.unlink()

    assert 1 <= new_parts(before, after) <= 4
    assert 0 <= new_parts(after, before) <= 4


def cut(writes: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """What comes of these writes: all of it unpacked, and the size of each part."""
    out = io.BytesIO()
    with PartedFile(out) as file:
        for data in writes:
            file.write(data)
    packed_bytes, sizes = out.getvalue(), []
    at = 0
    for part in file.parts:
        sizes.append(len(gzip.decompress(packed_bytes[at : at + part.size_bytes])))
        at += part.size_bytes
    return gzip.decompress(packed_bytes), sizes


@pytest.mark.parametrize(
    "content",
    [b"\0" * 1_000_000, b"\n" * 1_000_000, b"\r\n" * 500_000, b"x\n" * 500_000, b"no line ends here " * 60_000],
    ids=["zeros", "empty lines", "empty lines of two", "one line over and over", "no lines"],
)
def test_content_that_says_nothing_of_where_to_cut_is_cut_within_bounds(content: bytes) -> None:
    whole, sizes = cut([content])

    assert whole == content
    assert all(LEAST_BYTES <= size <= MOST_BYTES for size in sizes[:-1])
    assert 0 < sizes[-1] <= MOST_BYTES


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(), writes=st.lists(st.integers(1, 700_000), max_size=12))
def test_how_it_is_written_does_not_matter(seed: int, writes: list[int]) -> None:
    content = text(seed, 25_000).encode()
    some, rest = [], content
    for size in writes:
        some.append(rest[:size])
        rest = rest[size:]

    assert cut([*some, rest]) == cut([content])
