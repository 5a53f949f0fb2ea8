"""Archives from outside: what is refused and why, and what comes through."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.builder.archive import ExtractLimits, extract_tar, pack_tree, remove_tree
from actors.builder.errors import ArtifactError, SourceError

Entry = tuple[tarfile.TarInfo, bytes]
LIMITS = ExtractLimits(total_bytes=1_000_000, entries=100)


def entry(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(data), mode
    return info, data


def archive_of(*entries: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


HOSTILE = {
    "climbs": ([entry("../out", b"x")], "outside the source tree"),
    "climbs inside": ([entry("a/../../out", b"x")], "outside the source tree"),
    "absolute": ([entry("/etc/out", b"x")], "outside the source tree"),
    "link out": ([entry("l", kind=tarfile.SYMTYPE, link="../../etc/passwd")], "points to"),
    "absolute link": ([entry("l", kind=tarfile.SYMTYPE, link="/etc/passwd")], "points to"),
    "links that add up": (
        [entry("a", kind=tarfile.SYMTYPE, link="."), entry("b", kind=tarfile.SYMTYPE, link="a/a/a/../../..")],
        "points to",
    ),
    "file through a link": (
        [entry("d", kind=tarfile.SYMTYPE, link="."), entry("d/file", b"x")],
        "other entries lie below",
    ),
    "hard link out": ([entry("h", kind=tarfile.LNKTYPE, link="../../etc/passwd")], "outside the source tree"),
    "hard link to nothing": ([entry("h", kind=tarfile.LNKTYPE, link="nothing")], "no file before it"),
    "device": ([entry("null", kind=tarfile.CHRTYPE)], "device"),
    "pipe": ([entry("pipe", kind=tarfile.FIFOTYPE)], "device, a pipe"),
    "twice": ([entry("a", b"1"), entry("a", b"2")], "there twice"),
    "control characters": ([entry("a\nb", b"1")], "control characters"),
    "too big": ([entry("big", b"0" * 2_000_000)], "more than 1000000 bytes"),
    "too many": ([entry(f"f{n}") for n in range(101)], "more than 100 entries"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing_outside(name: str, tmp_path: Path) -> None:
    entries, told = HOSTILE[name]
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)

    with pytest.raises(SourceError, match=told):
        extract_tar(archive_of(*entries), root, limits=LIMITS)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_sparse_file_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("sparse")
    info.size = 0
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10 << 30)}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info.size = 512
        archive.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    out.seek(0)

    with pytest.raises(SourceError):
        extract_tar(out, tmp_path, limits=LIMITS)


def test_an_extended_header_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    info, _ = entry("x")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info.pax_headers = {"comment": "0" * 1_500_000}
        archive.addfile(info)
    out.seek(0)

    with pytest.raises(SourceError):
        extract_tar(out, tmp_path, limits=ExtractLimits(total_bytes=10**9, entries=10))


@pytest.mark.parametrize("data", [b"", b"not a tar at all" * 100, archive_of(entry("a", b"x" * 5000)).read()[:1500]])
def test_half_an_archive_or_none_is_an_error_not_a_crash(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        extract_tar(io.BytesIO(data), tmp_path, limits=LIMITS)


def test_files_links_and_modes_come_through_without_set_user_bits(tmp_path: Path) -> None:
    packed = archive_of(
        entry("bin/run", b"#!", mode=0o6755),
        entry("a/b/c.txt", b"hello"),
        entry("link", kind=tarfile.SYMTYPE, link="a/b/c.txt"),
        entry("hard", kind=tarfile.LNKTYPE, link="a/b/c.txt"),
    )

    extract_tar(packed, tmp_path, limits=LIMITS)

    assert (tmp_path / "link").read_text() == (tmp_path / "hard").read_text() == "hello"
    assert (tmp_path / "bin/run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "a/b/c.txt").stat().st_mode & 0o7777 == 0o644


def pack(root: Path, owner: int | None = None) -> bytes:
    out = io.BytesIO()
    pack_tree(root, out, owner=owner)
    return out.getvalue()


def test_the_same_tree_packs_to_the_same_bytes(tmp_path: Path) -> None:
    def tree(root: Path, order: Callable[[list[str]], list[str]]) -> Path:
        root.mkdir()
        for name in order(["a", "b", "c"]):
            (root / name).write_text(name)
        return root

    first = tree(tmp_path / "1", list)
    second = tree(tmp_path / "2", lambda names: names[::-1])
    os.utime(second / "a", (1, 1))

    assert pack(first) == pack(second)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make files of two users")
def test_a_file_of_somebody_else_is_never_packed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    os.chown(tmp_path / "mine", 70001, 70001)
    (tmp_path / "theirs").write_text("a hard link to what the build cannot read")

    with pytest.raises(ArtifactError, match="theirs"):
        pack(tmp_path, owner=70001)


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/link").symlink_to(tmp_path / "keep")

    remove_tree(tmp_path / "gone")

    assert (tmp_path / "keep/file").exists() and not (tmp_path / "gone").exists()
