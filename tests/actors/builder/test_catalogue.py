"""Every marker of the catalogue is found, frameworks are told apart, and what is proposed needs no platform."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.builder.catalogue import FRAMEWORKS, LANGUAGES, LOOK_ALIKES, MARKERS
from actors.builder.declared import read_declared
from actors.builder.detect import detect, dockerfiles
from actors.builder.errors import BuilderError, DetectionError, SettingsError
from actors.builder.proposal import propose
from actors.builder.rainbondfile import parse_rainbondfile
from actors.builder.versions import fits
from tests.actors.builder.conftest import EXAMPLES, write_tree

EVERY_MARKER = [(marker.language, name) for marker in MARKERS for name in marker.files]


@pytest.mark.parametrize(("language", "pattern"), EVERY_MARKER)
def test_every_marker_alone_is_recognised(language: str, pattern: str, tmp_path: Path) -> None:
    name = pattern.replace("*", "some")
    if name == "grails-app":
        name += "/conf.groovy"
    write_tree(tmp_path, {name: ""})
    if LANGUAGES[language].built:
        assert detect(tmp_path).language == language
        return
    with pytest.raises(DetectionError) as caught:
        detect(tmp_path)
    assert caught.value.code == "language_not_built"
    assert LANGUAGES[language].title in str(caught.value)
    assert "The directory holds" in str(caught.value)


ORDERS = [
    (["pom.xml", "composer.json", "requirements.txt", "package.json", "Gemfile", "go.mod"], "java-maven"),
    (["composer.json", "requirements.txt", "package.json"], "php"),
    (["requirements.txt", "package.json", "Gemfile"], "python"),
    (["package.json", "Gemfile", "go.mod"], "node"),
    (["Gemfile", "go.mod"], "ruby"),
    (["go.mod", "index.html"], "go"),
    (["requirements.txt", "tool.jar"], "python"),
    (["app.jar", "index.html"], "java-jar"),
    (["index.php", "index.html"], "php"),
    (["Dockerfile", "package.json"], "node"),
    (["Cargo.toml", "requirements.txt"], "python"),
    (["Cargo.toml", "Procfile"], "procfile"),
    (["main.go", "go.mod", "Procfile"], "go"),
    (["vendor/lib/index.php", "node_modules/x/package.json", "index.html"], "static"),
]


@pytest.mark.parametrize(("files", "language"), ORDERS)
def test_of_several_the_documented_order_decides(files: list[str], language: str, tmp_path: Path) -> None:
    found = detect(write_tree(tmp_path, dict.fromkeys(files, "")))
    assert found.language == language
    assert found.hits[0].language == language
    assert all(hit.reason for hit in found.hits)


@pytest.mark.parametrize(("wrong", "right"), [pair for pair in LOOK_ALIKES.items() if pair[0] != pair[1].lower()])
def test_a_misspelt_marker_gives_the_right_name(wrong: str, right: str, tmp_path: Path) -> None:
    with pytest.raises(DetectionError, match=f"Did you mean {right}\\? Rename {wrong} to {right}"):
        detect(write_tree(tmp_path, {wrong: ""}))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["venv/bin/python"], "pip freeze"),
        (["node_modules/x/index.js"], "without package.json"),
        (["environment.yml"], "conda"),
        (["backend/go.mod"], "--subdir backend"),
    ],
)
def test_what_was_committed_by_mistake_is_explained(files: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(DetectionError) as caught:
        detect(write_tree(tmp_path, dict.fromkeys(files, "")))
    assert told in str(caught.value)


def test_at_most_five_dockerfiles_are_offered(tmp_path: Path) -> None:
    names = [f"service{n}/Dockerfile" for n in range(6)] + [
        "Dockerfile",
        "Dockerfile.worker",
        "node_modules/Dockerfile",
    ]
    found = dockerfiles(write_tree(tmp_path, dict.fromkeys(names, "")))
    assert found == (
        "Dockerfile",
        "Dockerfile.worker",
        "service0/Dockerfile",
        "service1/Dockerfile",
        "service2/Dockerfile",
    )


FRAMEWORK_FILES = {
    "python": ("requirements.txt", "{0}==1.0\n"),
    "node": ("package.json", '{{"dependencies": {{"{0}": "1.0.0"}}}}'),
    "java": ("pom.xml", "<artifactId>{0}-starter</artifactId>"),
    "php": ("composer.json", '{{"require": {{"{0}": "^1"}}}}'),
    "ruby": ("Gemfile", 'gem "{0}"\n'),
    "go": ("go.mod", "module x\nrequire {0} v1.0.0\n"),
}


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda each: each.title)
def test_every_framework_is_known_by_its_dependency(framework: object, tmp_path: Path) -> None:
    known = next(each for each in FRAMEWORKS if each is framework)
    name, text = FRAMEWORK_FILES[known.language]
    found = propose(write_tree(tmp_path, {name: text.format(known.dependency)}))
    assert (found.framework, found.port) == (known.title, known.port)


def test_a_proposal_says_everything_without_building(tmp_path: Path) -> None:
    project = (EXAMPLES / "hello-uv" / "pyproject.toml").read_text()
    found = propose(write_tree(tmp_path, {"pyproject.toml": project, "uv.lock": "version = 1\n", "app.py": ""}))
    assert (found.language, found.package_manager, found.framework) == ("python", "uv", "Bottle")
    assert (found.version_wanted, found.version_from) == (">=3.9", "pyproject.toml")
    assert found.processes == {"web": "python app.py"}
    assert found.memory_bytes == 512 * 1024 * 1024
    assert propose(EXAMPLES / "hello-java").memory_bytes == 1024 * 1024 * 1024
    assert propose(EXAMPLES / "hello-pnpm").package_manager == "pnpm"
    assert propose(EXAMPLES / "hello-spa").processes == {"web": "serve dist/ as static files"}


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_every_example_is_detected_and_can_be_started(example: str) -> None:
    found = propose(EXAMPLES / example)
    if example == "hello-pipenv":  # its lock would name an index: whoever deploys it makes it
        assert found.problem_code == "lock_missing", found
    else:
        assert found.problem is None and found.processes, found


def test_a_proposal_with_nothing_to_start_tells_the_fix(tmp_path: Path) -> None:
    found = propose(write_tree(tmp_path, {"requirements.txt": ""}))
    assert (found.processes, found.problem_code) == ({}, "no_start_command")
    assert "Add a Procfile" in (found.problem or "")


def test_a_rainbondfile_is_read_and_rayfold_toml_wins(tmp_path: Path) -> None:
    text = "language: Node.js\ncmd: node x.js\nports:\n  - port: 5000\nenvs:\n  A: b\nbuildpath: sub\n"
    write_tree(tmp_path, {"rainbondfile": text, "sub/package.json": "{}", "sub/index.html": ""})
    found = propose(tmp_path)
    assert (found.language, found.processes, found.port) == ("node", {"web": "node x.js"}, 5000)
    assert found.because == "rainbondfile"
    assert any("rayfold config set" in warning for warning in found.warnings)

    (tmp_path / "rayfold.toml").write_text('[build]\nlanguage = "static"\n')
    assert read_declared(tmp_path).settings.language == "static"
    assert propose(tmp_path).because == "rayfold.toml"


@pytest.mark.parametrize("text", ["language: cobol", "ports: 5", "a: [", "ports: [{port: 99999}]", "- x"])
def test_a_wrong_rainbondfile_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="rainbondfile"):
        parse_rainbondfile(text)


def test_a_rainbondfile_cannot_lead_out_of_the_source(tmp_path: Path) -> None:
    write_tree(tmp_path, {"rainbondfile": "buildpath: ../other"})
    with pytest.raises(BuilderError):
        propose(tmp_path)


VERSIONS = [
    ("20.20.2", ">=18 <21", "npm", True), ("20.20.2", "^18 || ^20", "npm", True), ("20.20.2", "18.x", "npm", False),
    ("20.1.0", "18 - 20", "npm", True), ("0.3.0", "^0.2.3", "npm", False), ("20.1.0", "lts/*", "npm", True),
    ("1.3.0", "~1.2", "npm", False), ("8.2.3", "^8.1", "composer", True), ("8.2.3", "~8.1", "composer", True),
    ("8.2.3", "~8.1.0", "composer", False), ("8.2.1", ">=7.4 <8.0 || 8.2.*", "composer", True),
    ("3.1.2", "~> 3.1", "ruby", True), ("3.1.2", "~> 3.0.0", "ruby", False), ("3.11.7", ">=3.9,<3.12", "pip", True),
    ("3.11.7", "~=3.10", "pip", True), ("3.11.7", "==3.12.*", "pip", False), ("3.11.7", "!=3.11.*", "pip", False),
    ("3.11.7", "3.1", "pip", False), ("3.11.7", "", "pip", True),
]  # fmt: skip


@pytest.mark.parametrize(("version", "wanted", "notation", "fitting"), VERSIONS)
def test_ranges_are_read_as_each_ecosystem_means_them(version: str, wanted: str, notation: str, fitting: bool) -> None:
    assert fits(version, wanted, notation) is fitting  # type: ignore[arg-type]


def _rayfold(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", *arguments]
    return subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=60)


def test_rayfold_detect_prints_it_without_a_platform(tmp_path: Path) -> None:
    shown = _rayfold("detect", str(EXAMPLES / "hello-node"))
    assert shown.returncode == 0 and "node server.js" in shown.stdout and "Node, because package.json" in shown.stdout

    told = json.loads(_rayfold("detect", str(EXAMPLES), "--subdir", "hello-go", "--json").stdout)
    assert (told["language"], told["processes"]) == ("go", {"web": "bin/hello-go"})

    wrong = _rayfold("detect", str(write_tree(tmp_path, {"requirement.txt": ""})), "--json")
    assert wrong.returncode == 1
    assert json.loads(wrong.stderr)["code"] == "nothing_detected"
