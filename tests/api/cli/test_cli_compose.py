"""`rayfold compose` without a platform: the mapping on stdout, the warnings on stderr, and no secret on either."""

import json
from pathlib import Path

import pytest

from api.cli.main import main

FILE = """
services:
  web:
    build: ./web
    ports: ["8000:8000"]
    environment: {MODE: "a b", DB_PASSWORD: swordfish}
    volumes: ["data:/data"]
    deploy: {replicas: 3}
  cache: {image: redis}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "compose.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path / "shop")
    return tmp_path / "shop"


def test_it_says_what_comes_of_the_file_and_what_is_lost(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose"]) == 0

    shown = capsys.readouterr()
    assert "redis:latest" in shown.out and "rayfold deploy web --app shop --component web" in shown.out
    assert "rayfold apps create shop\n" in shown.out and "rayfold apps add web --app shop\n" in shown.out
    assert "rayfold apps add cache --no-http --app shop\n" in shown.out
    assert "rayfold config set 'MODE=a b' --app shop --component web" in shown.out
    assert "rayfold config set --secret DB_PASSWORD=- --app shop --component web" in shown.out
    assert "rayfold ps scale web=3 --app shop" in shown.out
    assert "web volumes: what an instance writes is gone with it" in shown.err
    assert "swordfish" not in shown.out + shown.err


def test_for_scripts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "compose.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in told["components"]] == ["web", "cache"]
    assert main(["compose", "--commands"]) == 0
    assert all(line.startswith("rayfold ") for line in capsys.readouterr().out.splitlines())


def test_what_is_no_compose_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compose", "nowhere.yaml"]) == 2
    (place / "other.yaml").write_text("a: [")
    assert main(["compose", "other.yaml"]) == 1
    assert "expected YAML" in capsys.readouterr().err


def test_a_file_outside_its_directory_is_not_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place.parent / "secret.env").write_text("TOKEN=swordfish\n")
    (place / "compose.yaml").write_text("services: {web: {image: 'x:1', env_file: ../secret.env}}")
    assert main(["compose"]) == 0
    shown = capsys.readouterr()
    assert "TOKEN" not in shown.out and "../secret.env is not there, or not beside the file" in shown.err
