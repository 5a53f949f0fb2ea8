"""Submodules are fetched at the commit that is named and nowhere else; Git LFS's pointers are found."""

import os
from pathlib import Path

import pytest

from actors.builder.errors import SourceError
from actors.builder.git import GitSource
from actors.builder.model import BuildLimits, SourceSpec
from actors.builder.sources import FetchedSource, fetch
from actors.builder.submodules import _check, resolve_url
from actors.builder.svn import SvnSource
from tests.actors.builder.conftest import git, repository, write_tree

pytestmark = pytest.mark.servers


def add_submodule(root: Path, url: str, path: str) -> None:
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", url, path, cwd=root)
    git("commit", "-q", "-m", f"Add {path}", cwd=root)


async def get(tmp_path: Path, url: str) -> FetchedSource:
    async def sink(_: list[str]) -> None:
        pass

    limits = BuildLimits()
    home = tmp_path / "home"
    home.mkdir()
    source = GitSource(home=home, limits=limits, environ=os.environ, sink=sink)
    svn = SvnSource(home=home, limits=limits, environ=os.environ, sink=sink)
    spec = SourceSpec(kind="git", url=url)
    return await fetch(spec, uploads=tmp_path, into=tmp_path / "src", git=source, svn=svn, limits=limits)


async def test_submodules_and_theirs_are_fetched_at_the_commit_that_is_named(tmp_path: Path) -> None:
    deepest = repository(tmp_path / "deepest", {"deepest.txt": "deepest"})
    library = repository(tmp_path / "library", {"code.txt": "as committed"})
    add_submodule(library, str(deepest), "inner")
    app = repository(tmp_path / "app", {"index.html": "x"})
    add_submodule(app, "../library", "libs/one")
    write_tree(library, {"code.txt": "later"})
    git("commit", "-q", "-am", "Later", cwd=library)

    found = await get(tmp_path, f"file://{app}")

    assert (found.root / "libs/one/code.txt").read_text() == "as committed"
    assert (found.root / "libs/one/inner/deepest.txt").read_text() == "deepest"
    assert list(found.root.rglob(".git")) == []
    assert found.notes == ()


async def test_a_submodule_that_is_not_there_says_which(tmp_path: Path) -> None:
    library = repository(tmp_path / "library", {"code.txt": "x"})
    app = repository(tmp_path / "app", {"index.html": "x"})
    add_submodule(app, str(library), "lib")
    library.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="library") as caught:
        await get(tmp_path, str(app))
    assert caught.value.code == "git_not_found"


@pytest.mark.parametrize(
    ("path", "target", "parent"),
    [
        ("lib", "/etc", "https://example.org/x.git"),
        ("lib", "file:///root", "ssh://git@example.org/x.git"),
        ("../lib", "https://example.org/y.git", "https://example.org/x.git"),
        ("/lib", "https://example.org/y.git", "https://example.org/x.git"),
        ("a/../../lib", "https://example.org/y.git", "https://example.org/x.git"),
        (".git/hooks", "https://example.org/y.git", "https://example.org/x.git"),
        ("lib", "ext::sh -c id", "https://example.org/x.git"),
        ("lib", "https://user:token@example.org/y.git", "https://example.org/x.git"),
        ("lib", "-upload-pack=id", "https://example.org/x.git"),
    ],
)
def test_a_submodule_that_means_harm_is_refused(tmp_path: Path, path: str, target: str, parent: str) -> None:
    with pytest.raises(SourceError) as caught:
        _check(tmp_path, tmp_path / path, path, target, parent)
    assert caught.value.code in ("submodule_refused", "git_url_refused", "git_url_has_credentials")
    assert "token@" not in str(caught.value)


@pytest.mark.parametrize(
    ("parent", "url", "resolved"),
    [
        ("https://h/a/app.git", "../lib.git", "https://h/a/lib.git"),
        ("https://h/a/app.git", "../../b/lib.git", "https://h/b/lib.git"),
        ("https://h/a/app.git", "./lib", "https://h/a/app.git/lib"),
        ("git@h:a/app.git", "../lib.git", "git@h:a/lib.git"),
        ("git@h:app.git", "../lib.git", "git@h:lib.git"),
        ("https://h/a/app.git", "https://x/y.git", "https://x/y.git"),
    ],
)
def test_relative_urls_are_resolved_as_git_does(parent: str, url: str, resolved: str) -> None:
    assert resolve_url(parent, url) == resolved


async def test_pointers_of_git_lfs_are_named_with_the_way_out(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    app = repository(tmp_path / "app", {"index.html": "x", "data/model.bin": pointer})
    found = await get(tmp_path, str(app))
    assert len(found.notes) == 1
    assert found.notes[0].startswith("data/model.bin: only pointers") and "git lfs pull" in found.notes[0]
