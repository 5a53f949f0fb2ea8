"""Sources from git: which URLs and refs are let through, and what a checkout brings."""

import os
import shutil
from pathlib import Path

import pytest

from actors.builder.errors import SourceError
from actors.builder.git import GitSource, check_ref, check_url
from actors.builder.model import BuildLimits, SourceSpec
from actors.builder.sources import FetchedSource, fetch
from actors.builder.svn import SvnSource
from tests.actors.builder.conftest import git, write_tree

GOOD_URLS = [
    "https://git.example.org/team/app.git",
    "http://127.0.0.1:3000/app",
    "ssh://git@git.example.org:2222/app.git",
    "git@git.example.org:team/app.git",
    "file:///srv/git/app.git",
    "/srv/git/app.git",
]
BAD_URLS = [
    "",
    "-u/bin/sh",
    "--upload-pack=touch /tmp/x",
    "ext::sh -c id",
    "ext::sh%20-c%20id",
    "fd::17",
    "ftp://host/app",
    "git://host/app",
    "javascript://x",
    "relative/path",
    "https://host/a\nb",
    "https://host/a\x00b",
    "ssh://-oProxyCommand=id/x",
    "ssh://-oProxyCommand=id@host/x",
    "-oProxyCommand=id@host:x",
    "https://",
    "https://[bad/x",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_of_the_usual_forms_are_let_through(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_run_commands_or_mean_nothing_are_refused(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_url(url)
    assert caught.value.code == "git_url_refused"


@pytest.mark.parametrize(
    "url",
    [
        "https://ada:hunter2@host/x",
        "https://ghp_token@host/x",
        "ssh://git:hunter2@host/x",
        "https://host/x.git?access_token=hunter2",
        "https://host/x.git#hunter2",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_url(url)
    assert caught.value.code == "git_url_has_credentials"
    assert "hunter2" not in str(caught.value) and "ghp_token" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://ada:hunter 2@host/x", "https://ada:hunter2@[bad/x", "/x?t=hunter2 "])
def test_a_url_that_is_refused_for_something_else_is_told_without_its_credentials(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_url(url)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "ref", ["-x", "--all", "a..b", "a b", "a:b", "+a", "a~1", "x.lock", "a@{1}", "/a", "a\n", "a" * 300]
)
def test_odd_refs_are_refused(ref: str) -> None:
    with pytest.raises(SourceError):
        check_ref(ref)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("committed") / "repo"
    write_tree(root, {"index.html": "one", "sites/two/index.html": "two"})
    (root / "sites/out").symlink_to("/etc")
    git("init", "-q", "-b", "main", cwd=root)
    git("add", "index.html", "sites/two", cwd=root)
    git("commit", "-q", "-m", "First", cwd=root)
    git("tag", "v1", cwd=root)
    git("checkout", "-q", "-b", "feature/x", cwd=root)
    write_tree(root, {"index.html": "feature"})
    git("commit", "-q", "-am", "Feature", cwd=root)
    git("checkout", "-q", "main", cwd=root)
    write_tree(root, {"index.html": "three"})
    git("commit", "-q", "-am", "Third", cwd=root)
    return root


@pytest.fixture
def repository(committed: Path, tmp_path: Path) -> Path:
    """A repository of each test's own, without each making its commits anew."""
    return shutil.copytree(committed, tmp_path / "repo", symlinks=True)


async def get(tmp_path: Path, spec: SourceSpec, said: list[str] | None = None) -> FetchedSource:
    async def sink(lines: list[str]) -> None:
        if said is not None:
            said.extend(lines)

    limits = BuildLimits()
    source = GitSource(home=tmp_path, limits=limits, environ=os.environ, sink=sink)
    svn = SvnSource(home=tmp_path, limits=limits, environ=os.environ, sink=sink)
    return await fetch(spec, uploads=tmp_path, into=tmp_path / "src", git=source, svn=svn, limits=limits)


@pytest.mark.parametrize(
    ("ref", "content"), [("", "three"), ("main", "three"), ("v1", "one"), ("feature/x", "feature"), ("HEAD", "three")]
)
@pytest.mark.parametrize("form", ["file://{}", "{}"])
async def test_a_branch_tag_or_head(repository: Path, tmp_path: Path, ref: str, content: str, form: str) -> None:
    found = await get(tmp_path, SourceSpec(kind="git", url=form.format(repository), ref=ref))

    assert (found.root / "index.html").read_text() == content
    assert found.commit == git("rev-parse", ref or "main", cwd=repository)
    assert found.author == "Ada <ada@example.org>"
    assert not (found.root / ".git").exists()


@pytest.mark.parametrize("length", [40, 8])
async def test_a_commit_in_full_or_abbreviated(repository: Path, tmp_path: Path, length: int) -> None:
    commit = git("rev-parse", "feature/x", cwd=repository)

    found = await get(tmp_path, SourceSpec(kind="git", url=f"file://{repository}", ref=commit[:length]))

    assert found.commit == commit


async def test_a_sub_directory(repository: Path, tmp_path: Path) -> None:
    found = await get(tmp_path, SourceSpec(kind="git", url=str(repository), subdir="sites/two"))
    assert (found.root / "index.html").read_text() == "two"


@pytest.mark.parametrize("subdir", ["../x", "/etc", "sites/three", "a/../../b"])
async def test_a_sub_directory_that_is_not_there_or_outside(repository: Path, tmp_path: Path, subdir: str) -> None:
    with pytest.raises(SourceError) as caught:
        await get(tmp_path, SourceSpec(kind="git", url=str(repository), subdir=subdir))
    assert caught.value.code in {"subdir_refused", "subdir_missing"}


async def test_a_link_out_of_the_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    git("add", "sites/out", cwd=repository)
    git("commit", "-q", "-m", "Link", cwd=repository)
    with pytest.raises(SourceError, match="outside the source tree"):
        await get(tmp_path, SourceSpec(kind="git", url=str(repository), subdir="sites/out"))


async def test_an_unknown_ref_names_those_there_are(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"main") as caught:
        await get(tmp_path, SourceSpec(kind="git", url=str(repository), ref="mian"))
    assert caught.value.code == "git_ref_unknown"


async def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="git cannot fetch") as caught:
        await get(tmp_path, SourceSpec(kind="git", url=f"file://{tmp_path}/nothing"))
    assert caught.value.code == "git_not_found"


async def test_hooks_and_filters_of_the_platforms_user_do_not_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    write_tree(home, {"hooks/post-checkout": f"#!/bin/sh\ntouch {tmp_path}/ran\n"})
    (home / "hooks/post-checkout").chmod(0o755)
    write_tree(home, {".gitconfig": f"[core]\n\thooksPath = {home}/hooks\n"})
    monkeypatch.setenv("HOME", str(home))

    await get(tmp_path, SourceSpec(kind="git", url=str(repository)))

    assert not (tmp_path / "ran").exists()
