"""`git push` with a real git: who may, what is deployed, what refuses a push, and what is left afterwards."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from api.git.hook import Refused, Update, deployed_of, updates_in
from tests.actors.builder.conftest import git, write_tree
from tests.api.http.conftest import ADMIN, House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"
GIT_SECONDS = 60


def _repository(place: Path, **files: str) -> Path:
    place.mkdir()
    write_tree(place, {name.replace("_", "."): text for name, text in files.items()} or {"Procfile": "web: run\n"})
    git("init", "-q", "-b", "main", cwd=place)
    git("add", "-A", cwd=place)
    git("commit", "-q", "-m", "first", cwd=place)
    return place


def _commit(place: Path, text: str) -> str:
    write_tree(place, {"Procfile": text})
    git("commit", "-q", "-am", text, cwd=place)
    return git("rev-parse", "HEAD", cwd=place)


def _remote(house: House, token: str = ADMIN, path: str = "default/shop/web.git") -> str:
    return house.url.replace("http://", f"http://anyone:{token}@") + f"/git/{path}"


async def _git(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    return await asyncio.to_thread(
        subprocess.run, ["git", *arguments], cwd=place, env=env, capture_output=True, text=True, timeout=GIT_SECONDS
    )


async def test_a_push_to_main_is_deployed_and_taken(house: House, tmp_path: Path) -> None:
    place = _repository(tmp_path / "app")
    done = await _git(place, "push", _remote(house), "main")
    assert done.returncode == 0, done.stderr
    assert "remote: -----> v1 is live" in done.stderr and "new branch" in done.stderr
    commit = git("rev-parse", "HEAD", cwd=place)
    releases = (await house.get(f"{WEB}/releases")).json["items"]
    assert [release["number"] for release in releases] == [1]
    assert releases[0]["reason"] == f"git push of {commit[:12]} to main"
    (build,) = (await house.get(f"{WEB}/builds")).json["items"]
    assert (build["commit"], build["author"]) == (commit, "Ada <ada@example.org>")
    there = await _git(place, "ls-remote", _remote(house))
    assert there.stdout.split() == [commit, "HEAD", commit, "refs/heads/main"]
    clone = await _git(tmp_path, "clone", "-q", _remote(house), "clone")
    assert clone.returncode == 0 and (tmp_path / "clone/Procfile").read_text() == "web: run\n"


async def test_a_failed_build_refuses_the_push_and_the_branch_stays_where_it_was(house: House, tmp_path: Path) -> None:
    place = _repository(tmp_path / "app")
    first = git("rev-parse", "HEAD", cwd=place)
    assert (await _git(place, "push", _remote(house), "main")).returncode == 0
    house.world.fails = "pip exited with 1"
    second = _commit(place, "web: other\n")
    done = await _git(place, "push", _remote(house), "main")
    assert done.returncode != 0
    assert "pip exited with 1" in done.stderr and "the push is refused" in done.stderr
    assert "v1 still serves" in done.stderr and "pre-receive hook declined" in done.stderr
    assert first in (await _git(place, "ls-remote", _remote(house))).stdout
    house.world.fails = ""
    assert (await _git(place, "push", _remote(house), "main")).returncode == 0
    assert second in (await _git(place, "ls-remote", _remote(house))).stdout
    left = [
        path.name for path in (house.data / "git").rglob("*") if "incoming" in path.name or "tmp_objdir" in path.name
    ]
    assert left == []


async def test_other_branches_are_stored_and_not_deployed(house: House, tmp_path: Path) -> None:
    place = _repository(tmp_path / "app")
    done = await _git(place, "push", _remote(house), "main:try-it")
    assert done.returncode == 0, done.stderr
    assert "stored, and not deployed: try-it" in done.stderr
    assert (await house.get(f"{WEB}/releases")).status == 404, "nothing was made for it"
    done = await _git(place, "push", _remote(house), "main", ":try-it")
    assert done.returncode == 0, done.stderr
    gone = await _git(place, "push", _remote(house), ":main")
    assert gone.returncode != 0 and "that it is to be deleted" in gone.stderr


async def test_a_busy_component_refuses_the_push_with_what_it_does(house: House, tmp_path: Path) -> None:
    house.world.may_build.clear()
    running = (await house.deploy(WEB)).json["operation"]
    builds = await house.until(f"{WEB}/builds", lambda page: page["items"] and page["items"][0]["status"] == "running")
    assert builds
    place = _repository(tmp_path / "app")
    await asyncio.sleep(0)
    done = await _git(place, "push", _remote(house), "main")
    assert done.returncode != 0 and f"busy with operation {running}" in done.stderr, done.stderr
    house.world.release_builds()
    assert (await house.ended(running))["status"] == "succeeded"


@pytest.mark.parametrize("token", ["", "no-such-token-anywhere"])
async def test_without_a_token_of_ours_nothing_is_told(house: House, tmp_path: Path, token: str) -> None:
    place = _repository(tmp_path / "app")
    remote = _remote(house, token) if token else f"{house.url}/git/default/shop/web.git"
    done = await _git(place, "push", remote, "main")
    assert done.returncode != 0
    assert "Authentication failed" in done.stderr or "could not read" in done.stderr, done.stderr
    assert not (house.data / "git").exists()
    async with house.session.get(f"{house.url}/git/default/shop/web.git/info/refs?service=git-receive-pack") as answer:
        assert answer.status == 401 and answer.headers["WWW-Authenticate"].startswith("Basic")


async def test_another_teams_repository_is_not_there(house: House, tmp_path: Path) -> None:
    theirs = await house.team("mill")
    place = _repository(tmp_path / "app")
    assert (await _git(place, "push", _remote(house), "main")).returncode == 0
    for arguments in (("push", _remote(house, theirs), "main"), ("ls-remote", _remote(house, theirs))):
        done = await _git(place, *arguments)
        assert done.returncode != 0 and "not found" in done.stderr, done.stderr
    done = await _git(place, "push", _remote(house, theirs, "mill/shop/web.git"), "main")
    assert done.returncode == 0, done.stderr
    missing = await _git(place, "push", _remote(house, ADMIN, "nobody/shop/web.git"), "main")
    assert missing.returncode != 0 and "there is no team nobody" in missing.stderr


@pytest.mark.parametrize("path", ["default/Shop/web.git", "default/$(touch x)/web.git", "default/..%2f..%2fx/web.git"])
async def test_names_that_are_none_are_refused_and_never_reach_a_shell(house: House, tmp_path: Path, path: str) -> None:
    place = _repository(tmp_path / "app")
    done = await _git(place, "push", _remote(house, ADMIN, path), "main")
    assert done.returncode != 0
    assert not (house.data / "git").exists() and not (place / "x").exists()


async def test_what_stands_in_the_source_is_data(house: House, tmp_path: Path) -> None:
    """A branch with a shell's words in its name, an attribute that substitutes, a hook of the repository's own."""
    place = _repository(tmp_path / "app")
    write_tree(place, {".gitattributes": "* export-subst\n", "hooks/pre-receive": "#!/bin/sh\ntouch /tmp/rf-never\n"})
    git("add", "-A", cwd=place)
    git("commit", "-q", "-m", "$(touch never); `touch never`", cwd=place)
    branch = "x;touch${IFS}never"
    done = await _git(place, "push", _remote(house), "main", f"main:refs/heads/{branch}")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("never")) and not list(house.data.rglob("never"))
    assert not Path("/tmp/rf-never").exists()


async def test_a_client_that_is_too_old_or_no_git_is_told_so(house: House) -> None:
    base = f"{house.url}/git/default/shop/web.git"

    async def status(path: str, *, post: bool = False) -> int:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with house.session.request("POST" if post else "GET", base + path, headers=headers) as answer:
            return answer.status

    assert await status("/info/refs") == 403
    assert await status("/info/refs?service=git-shell") == 403
    assert await status("/git-receive-pack", post=True) == 415
    assert await status("/info/refs?service=git-upload-pack") == 404
    assert await status("/config") == 404


def test_what_git_tells_the_hook_is_read_and_only_main_counts() -> None:
    old, new = "0" * 40, "a" * 40
    assert updates_in([f"{old} {new} refs/heads/main\n", "\n"]) == [Update(ref="refs/heads/main", new=new)]
    assert deployed_of([Update(ref="refs/heads/try", new=new)]) is None
    assert deployed_of([Update(ref="refs/tags/v1", new=new), Update(ref="refs/heads/master", new=new)]) is not None
    for wrong in (
        [Update(ref="refs/heads/main", new=old)],
        [Update(ref="refs/heads/main", new=new), Update(ref="refs/heads/master", new=new)],
    ):
        with pytest.raises(Refused):
            deployed_of(wrong)
