"""Packing a directory: what .gitignore keeps, the same bytes for the same content."""

import os
import tarfile
from pathlib import Path

import pytest

from actors.builder.errors import PackError
from actors.builder.pack import kept_files, pack_directory
from tests.actors.builder.conftest import git, write_tree

FILES = {
    ".gitignore": "*.log\n/secret.txt\nnode_modules/\n!keep.log\n",
    "app.py": "print()",
    "debug.log": "x",
    "keep.log": "x",
    "secret.txt": "x",
    "sub/secret.txt": "kept: the pattern is anchored",
    "sub/.gitignore": "*.tmp\n!sub.log\n",
    "sub/a.tmp": "x",
    "sub/sub.log": "x",
    "b.tmp": "kept: the pattern is the sub-directory's",
    "node_modules/x/index.js": "x",
}
KEPT = [".gitignore", "app.py", "b.tmp", "keep.log", "sub/.gitignore", "sub/secret.txt", "sub/sub.log"]


def test_without_git_the_gitignore_files_decide(tmp_path: Path) -> None:
    assert sorted(kept_files(write_tree(tmp_path, FILES))) == KEPT


def test_in_a_work_tree_git_decides_and_agrees(tmp_path: Path) -> None:
    write_tree(tmp_path, FILES)
    git("init", "-q", cwd=tmp_path)
    assert sorted(kept_files(tmp_path)) == KEPT


def test_uncommitted_and_deleted_files_are_as_they_are_on_disk(tmp_path: Path) -> None:
    write_tree(tmp_path, {"old.py": "x", "app.py": "x"})
    git("init", "-q", cwd=tmp_path)
    git("add", ".", cwd=tmp_path)
    (tmp_path / "old.py").unlink()
    (tmp_path / "new.py").write_text("x")
    assert sorted(kept_files(tmp_path)) == ["app.py", "new.py"]


def test_a_directory_without_gitignore_leaves_out_what_is_never_source(tmp_path: Path) -> None:
    write_tree(tmp_path, {"app.py": "x", ".venv/x": "x", "node_modules/x": "x", "__pycache__/a.pyc": "x"})
    assert kept_files(tmp_path) == ["app.py"]


def test_the_same_content_gives_the_same_digest(tmp_path: Path) -> None:
    one, two = write_tree(tmp_path / "1", FILES), write_tree(tmp_path / "2", FILES)
    os.utime(two / "app.py", (1, 1))
    (two / "sub/secret.txt").chmod(0o600)

    first = pack_directory(one, tmp_path / "1.tar.gz")
    second = pack_directory(two, tmp_path / "2.tar.gz")
    (two / "app.py").write_text("changed")
    third = pack_directory(two, tmp_path / "3.tar.gz")

    assert first.digest == second.digest != third.digest
    assert first.files == len(KEPT)
    with tarfile.open(first.path) as archive:
        assert {member.mtime for member in archive} == {0}


def test_over_the_limit_the_biggest_files_are_named(tmp_path: Path) -> None:
    write_tree(tmp_path / "src", {"a.bin": "x" * 5000, "b.txt": "x"})
    with pytest.raises(PackError, match=r"a\.bin \(5000 bytes\)"):
        pack_directory(tmp_path / "src", tmp_path / "out", limit_bytes=1000)
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_directory_is_refused_and_one_inside_kept(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "src", {"a/b": "x"})
    (root / "inside").symlink_to("a/b")
    packed = pack_directory(root, tmp_path / "1.tar.gz")
    (root / "out").symlink_to("../elsewhere")

    assert packed.files == 2
    with pytest.raises(PackError, match="'out' is a link"):
        pack_directory(root, tmp_path / "2.tar.gz")


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(PackError, match="nothing to build"):
        pack_directory(tmp_path / "src", tmp_path / "out")
