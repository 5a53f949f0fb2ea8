"""What a source tree is, what its Procfile and rayfold.toml say, and what is said when they are wrong."""

from pathlib import Path

import pytest

from actors.builder.detect import detect
from actors.builder.errors import DetectionError, ProcfileError, SettingsError
from actors.builder.languages.python import default_start, read_requirements
from actors.builder.procfile import parse_procfile
from actors.builder.settings import parse_settings
from tests.actors.builder.conftest import write_tree

TREES = [
    (["requirements.txt"], "python", "requirements.txt"),
    (["pyproject.toml"], "python", "pyproject.toml"),
    (["requirements.txt", "pyproject.toml"], "python", "requirements.txt"),
    (["package.json"], "node", "package.json"),
    (["requirements.txt", "package.json", "index.html"], "python", "requirements.txt"),
    (["package.json", "public/index.html"], "node", "package.json"),
    (["public/index.html"], "static", "public/index.html"),
    (["index.html", "Procfile"], "static", "index.html"),
    (["app.py", "index.html"], "python", "app.py"),
    (["Procfile"], "procfile", "Procfile"),
]


@pytest.mark.parametrize(("files", "language", "because"), TREES)
def test_the_marker_that_says_most_wins(files: list[str], language: str, because: str, tmp_path: Path) -> None:
    found = detect(write_tree(tmp_path, dict.fromkeys(files, "")))
    assert (found.language, found.because) == (language, because)
    assert f"because of {because}" in found.sentence


def test_what_else_was_seen_is_told(tmp_path: Path) -> None:
    found = detect(write_tree(tmp_path, dict.fromkeys(["requirements.txt", "package.json"], "")))
    assert found.also_saw == ("Node (package.json)",)
    assert "also saw Node (package.json): set build.language" in found.sentence


def test_an_explicit_language_wins(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, dict.fromkeys(["requirements.txt", "package.json"], ""))
    assert detect(tree, explicit="node").because == "rayfold.toml"


@pytest.mark.parametrize(
    ("files", "fix"),
    [
        (["requirement.txt"], "Rename requirement.txt to requirements.txt"),
        (["Requirements.txt"], "requirements.txt"),
        (["packages.json"], "package.json"),
        (["procfile"], "Rename procfile to Procfile"),
        (["backend/requirements.txt"], "deploy the sub-directory backend"),
        (["notes.md"], "the directory holds notes.md"),
        ([], "the directory holds nothing"),
    ],
)
def test_nothing_detected_says_what_is_there_and_what_to_do(files: list[str], fix: str, tmp_path: Path) -> None:
    with pytest.raises(DetectionError, match="Expected requirements") as caught:
        detect(write_tree(tmp_path, dict.fromkeys(files, "")))
    assert fix in str(caught.value)


def test_a_procfile_with_several_processes_and_a_release_step() -> None:
    found = parse_procfile("# comment\n\nweb: python app.py --port $PORT\r\nWorker : run: it\nrelease: migrate\n")
    assert found.processes == {"web": "python app.py --port $PORT", "worker": "run: it"}
    assert found.release == "migrate"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("web python app.py", "line 1: expected `name: command`"),
        ("web: a\nweb: b", "line 2: process 'web' is there twice"),
        ("web: a\nmy_worker: b", "Call it 'my-worker'"),
        ("1st: a", "cannot name a component"),
        ("a--b: a", "Call it 'a-b'"),
        ("web:", "line 1"),
        ("../x: a", "line 1"),
        ("", "at least one"),
        (f"{'a' * 41}: x", "cannot name a component"),
    ],
)
def test_a_wrong_procfile_names_the_line(text: str, told: str) -> None:
    with pytest.raises(ProcfileError) as caught:
        parse_procfile(text)
    assert told in str(caught.value)


def test_settings_are_read_and_unknown_keys_told() -> None:
    settings, warnings = parse_settings(
        '[build]\nlanguage = "static"\nroot = "site"\ncolour = 1\n[component]\nport = 8080\nprobe = "/up"\n'
        '[processes]\nweb = "run"\n'
    )
    assert (settings.language, settings.static_root, settings.port, settings.probe_path) == (
        "static",
        "site",
        8080,
        "/up",
    )
    assert settings.processes == {"web": "run"}
    assert warnings == ("rayfold.toml: build.colour is not a key that builds read",)


@pytest.mark.parametrize(
    "text", ["[build", "build = 1", "[component]\nport = 0", '[build]\nlanguage = "cobol"', '[component]\nprobe = "x"']
)
def test_wrong_settings_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"rayfold\.toml"):
        parse_settings(text)


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({"app.py": "print()"}, "python app.py"),
        ({"main.py": ""}, "python main.py"),
        ({"app.py": "app = Flask()", "requirements.txt": "gunicorn\nflask"}, "gunicorn --bind 127.0.0.1:$PORT app:app"),
        ({"main.py": "app = X()", "requirements.txt": "uvicorn"}, "uvicorn --host 127.0.0.1 --port $PORT main:app"),
        (
            {"manage.py": "", "site/wsgi.py": "", "requirements.txt": "Django\ngunicorn==1"},
            "gunicorn --bind 127.0.0.1:$PORT site.wsgi",
        ),
        ({"manage.py": ""}, "python manage.py runserver 127.0.0.1:$PORT --noreload"),
    ],
)
def test_the_default_start_command_of_python(files: dict[str, str], command: str, tmp_path: Path) -> None:
    write_tree(tmp_path, files)
    assert default_start(tmp_path, read_requirements(tmp_path)) == command


def test_python_without_anything_to_start_says_how(tmp_path: Path) -> None:
    with pytest.raises(DetectionError) as caught:
        default_start(tmp_path, read_requirements(tmp_path))
    assert caught.value.code == "no_start_command"


def test_included_requirements_count_for_the_lock_hash(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {"requirements.txt": "-r base/all.txt\n", "base/all.txt": "a==1\n-c limits.txt", "base/limits.txt": ""},
    )
    before = read_requirements(tmp_path).lock_hash
    (tmp_path / "base/limits.txt").write_text("b<2")
    assert read_requirements(tmp_path).lock_hash != before


@pytest.mark.parametrize("line", ["-r ../other.txt", "-r missing.txt", "-e .", "--editable ./x"])
def test_requirements_that_cannot_be_honoured_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(DetectionError):
        read_requirements(write_tree(tmp_path, {"requirements.txt": line}))


@pytest.mark.parametrize(
    ("files", "fix"),
    [({"pyproject.toml": '[tool.poetry]\nname = "x"\n'}, "poetry lock"), ({"Pipfile": ""}, "pipenv lock")],
)
def test_a_project_of_another_tool_without_its_lock_gives_the_way_out(
    files: dict[str, str], fix: str, tmp_path: Path
) -> None:
    with pytest.raises(DetectionError, match=fix) as caught:
        read_requirements(write_tree(tmp_path, files))
    assert caught.value.code == "lock_missing"
