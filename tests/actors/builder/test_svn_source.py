"""Sources from a real Subversion repository, from a directory and through a real svnserve that asks for a password."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.builder.errors import SourceError
from actors.builder.model import BuildOutcome, SourceSpec
from actors.builder.svn import check_revision, check_url
from actors.builder.unpack import unpack_artifact
from tests.actors.builder.conftest import Bench, write_tree
from tests.toolchains import need

pytestmark = pytest.mark.servers

PASSWORD = "swordfish-and-chips"


def svn(*arguments: str, home: Path) -> str:
    command = ["svn", "--non-interactive", *arguments]
    env = {**os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


class Repository:
    """Two revisions of an app below trunk; the server lets only `ada` in."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.home.mkdir(parents=True)
        self.path = root / "repository"
        subprocess.run(["svnadmin", "create", str(self.path)], check=True)
        self.url = f"file://{self.path}"
        tree = write_tree(root / "tree", {"trunk/Procfile": "web: sh run.sh", "trunk/run.sh": "echo first"})
        svn("import", "-q", "-m", "First", "--username", "ada", str(tree), self.url, home=self.home)
        work = root / "work"
        svn("checkout", "-q", f"{self.url}/trunk", str(work), home=self.home)
        (work / "run.sh").write_text("echo second")
        svn("propset", "-q", "svn:externals", "/trunk other", str(work), home=self.home)
        svn("commit", "-q", "-m", "Second", "--username", "bob", str(work), home=self.home)

    def serve(self) -> tuple[subprocess.Popen[bytes], str]:
        conf = self.path / "conf"
        (conf / "svnserve.conf").write_text("[general]\nanon-access = none\nauth-access = read\npassword-db = passwd\n")
        (conf / "passwd").write_text(f"[users]\nada = {PASSWORD}\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["svnserve", "--daemon", "--foreground", "--listen-host", "127.0.0.1", f"--listen-port={port}"]
        server = subprocess.Popen([*command, "--root", str(self.path.parent)])
        while server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        return server, f"svn://127.0.0.1:{port}/{self.path.name}/trunk"

    def store_password(self, url: str) -> None:
        """As a person does it once at a prompt; told here to store it in plain text, as no keyring is there."""
        config = self.home / ".subversion" / "servers"
        config.parent.mkdir(exist_ok=True)
        config.write_text("[global]\nstore-passwords = yes\nstore-plaintext-passwords = yes\n")
        (self.home / ".subversion" / "config").write_text("[auth]\npassword-stores =\n")
        svn("info", "--username", "ada", "--password", PASSWORD, url, home=self.home)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    need("svn", "svnserve")
    yield Repository(tmp_path)


async def build(bench: Bench, url: str, ref: str = "", subdir: str = "") -> BuildOutcome:
    return await bench.engine.run(bench.request(SourceSpec(kind="svn", url=url, ref=ref, subdir=subdir)))


async def script_of(bench: Bench, outcome: BuildOutcome) -> str:
    assert outcome.artifact is not None, f"{outcome}\n{bench.text(outcome.build_id)}"
    path = await unpack_artifact(bench.engine.store, outcome.artifact.digest, bench.root / "node", None)
    return (path / "app" / "run.sh").read_text()


async def test_the_newest_revision_and_an_older_one(bench: Bench, repository: Repository) -> None:
    newest = await build(bench, f"{repository.url}/trunk")
    older = await build(bench, repository.url, "r1", subdir="trunk")

    assert await script_of(bench, newest) == "echo second"
    assert await script_of(bench, older) == "echo first"
    assert newest.artifact is not None and older.artifact is not None
    assert (newest.artifact.source_commit, newest.artifact.source_author) == ("r2", "bob")
    assert (older.artifact.source_commit, older.artifact.source_author) == ("r1", "ada")
    assert any("svn:externals" in warning for warning in newest.artifact.warnings)
    assert older.artifact.warnings == ()


async def test_what_is_not_there(bench: Bench, repository: Repository) -> None:
    codes = [
        (await build(bench, url, ref)).code
        for url, ref in (
            (f"{repository.url}/branches/x", ""),
            ("file:///nonexistent", ""),
            (f"{repository.url}/trunk", "99"),
            (f"{repository.url}/trunk", "main"),
            ("svn://127.0.0.1:9/x", ""),
        )
    ]
    assert [code.removeprefix("svn_") for code in codes] == [
        *("not_found", "not_found"),
        *("revision_unknown", "revision_refused", "unreachable"),
    ]


async def test_a_password_that_svn_has_stored_is_used_and_stands_nowhere_else(
    bench: Bench, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(repository.home))
    server, url = repository.serve()
    try:
        refused = await build(bench, url)
        repository.store_password(url)
        allowed = await build(bench, url)
    finally:
        server.terminate()
        server.wait()

    assert refused.code == "svn_auth_refused", refused
    assert await script_of(bench, allowed) == "echo second"
    assert PASSWORD not in bench.text(allowed.build_id) + bench.text(refused.build_id) + repr((allowed, refused))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("svn://ada:secret@host/x", "svn_url_has_credentials"),
        ("https://token@host/x", "svn_url_has_credentials"),
        ("https://host/x?token=1", "svn_url_has_credentials"),
        ("svn+ssh://-oProxyCommand=id/x", "svn_url_refused"),
        ("svn+tunnel://host/x", "svn_url_refused"),
        ("--version", "svn_url_refused"),
        ("/srv/x", "svn_url_refused"),
        ("svn://", "svn_url_refused"),
    ],
)
def test_urls_that_svn_is_never_given(url: str, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_url(url)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_revisions() -> None:
    assert [check_revision(text) for text in ("", "HEAD", "12", "r12")] == ["", "", "12", "12"]
    with pytest.raises(SourceError):
        check_revision("12:13")
