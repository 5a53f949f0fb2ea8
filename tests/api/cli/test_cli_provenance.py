"""What `rayfold deploy .` says an upload is made of, with a real git."""

import os
from pathlib import Path

from api.cli.main import main
from api.cli.provenance import of_commit, of_directory
from tests.actors.builder.conftest import git, write_tree
from tests.api.cli.answers import deploys
from tests.api.cli.conftest import ContractServer, deploy_events


def _repository(place: Path) -> str:
    write_tree(place, {"web/Procfile": "web: run\n", "notes.txt": "x\n", ".gitignore": "ignored\n"})
    git("init", "-q", "-b", "main", cwd=place)
    git("add", "-A", cwd=place)
    git("commit", "-q", "-m", "first", cwd=place)
    return git("rev-parse", "HEAD", cwd=place)


def test_a_clean_tree_is_its_commit_and_one_with_changes_is_dirty(tmp_path: Path) -> None:
    commit = _repository(tmp_path)
    clean = {"commit": commit, "author": "Ada <ada@example.org>"}
    assert of_directory(tmp_path) == clean == of_commit("HEAD", tmp_path)
    write_tree(tmp_path, {"ignored": "x", "notes.txt": "changed\n"})
    assert of_directory(tmp_path / "web") == clean, "what changed is not in what is deployed"
    assert of_directory(tmp_path)["commit"] == f"{commit}-dirty"
    write_tree(tmp_path, {"web/new.py": "x"})
    assert of_directory(tmp_path / "web")["commit"] == f"{commit}-dirty", "a file git does not know yet is packed too"


def test_where_no_commit_is_of_it_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert of_directory(tmp_path / "none") == {}
    git("init", "-q", "-b", "main", cwd=tmp_path / "none")
    assert of_directory(tmp_path / "none") == {}, "no commit yet"
    (tmp_path / "around").mkdir()
    _repository(tmp_path / "around")
    write_tree(tmp_path / "around", {"app/Procfile": "web: run\n"})
    assert of_directory(tmp_path / "around" / "app") == {}, "the repository around it knows nothing of it"
    assert of_commit("0" * 40, tmp_path / "around") == {}


def test_an_authors_control_characters_are_not_sent(tmp_path: Path) -> None:
    _repository(tmp_path)
    git("commit", "-q", "--allow-empty", "-m", "x", "--author", "A\x1b[31m" + "b" * 300 + " <a@b>", cwd=tmp_path)
    author = of_directory(tmp_path)["author"]
    assert author.startswith("A[31mb") and len(author) == 200


def test_deploy_sends_it(server: ContractServer, tmp_path: Path) -> None:
    place = tmp_path / "shop"
    place.mkdir()
    commit = _repository(place)
    deploys(server, deploy_events())
    assert main(["deploy", os.fspath(place)]) == 0
    (asked,) = server.of("deploy")
    assert isinstance(asked.body, dict)
    source = asked.body["source"]
    assert (source["commit"], source["author"]) == (commit, "Ada <ada@example.org>")
