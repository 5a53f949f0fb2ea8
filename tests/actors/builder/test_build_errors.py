"""Each code of a failing build: produced by a build that really fails, and explained in docs/build-errors.md."""

import ast
import asyncio
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors.builder import interpreters
from actors.builder.diagnosis import CAUSES, diagnose
from actors.builder.model import MIB, BuildLimits, BuildState, SourceSpec
from tests.actors.builder.conftest import EXAMPLES, Bench, git, write_tree
from tests.toolchains import need

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/build-errors.md"
USER = (70023, 70023) if os.getuid() == 0 else None
NOWHERE = "http://127.0.0.1:9"

pytestmark = pytest.mark.servers


def script(command: str) -> dict[str, str]:
    """A source whose build script is `command`."""
    return {"package.json": '{"scripts": {"build": "sh build.sh", "start": "x"}}', "build.sh": command + "\n"}


NPM_LOCK = (EXAMPLES / "hello-node/package-lock.json").read_text()
NPM_PACKAGE = (EXAMPLES / "hello-node/package.json").read_text()
BROKEN_LOCK = NPM_LOCK.replace("sha512-6", "sha512-7")
POM = "<project><modelVersion>4.0.0</modelVersion>"

# Code → files, and what the request says besides. Each is a whole build with the real tools. Time-outs and limits on
# files and artifacts have theirs in test_engine.py and test_hostile_sources.py.
FAILURES: dict[str, list[tuple[dict[str, str], dict[str, Any]]]] = {
    "nothing_detected": [({"notes.md": ""}, {}), ({"backend/go.mod": ""}, {})],
    "language_not_built": [({"Cargo.toml": ""}, {}), ({"Dockerfile": "FROM scratch"}, {})],
    "no_start_command": [
        ({"requirements.txt": ""}, {}),
        ({"package.json": "{}"}, {}),
        ({"go.mod": "module x\n", "x.go": "package x\n"}, {}),
    ],
    "procfile_invalid": [({"requirements.txt": "", "Procfile": "web"}, {})],
    "settings_invalid": [({"rayfold.toml": "[build]\nlanguage = 'cobol'"}, {}), ({"rainbondfile": "ports: 5"}, {})],
    "static_root_missing": [({"index.html": "", "rayfold.toml": "[build]\nroot = 'site'"}, {})],
    "package_invalid": [({"package.json": "{"}, {})],
    "composer_invalid": [({"composer.json": "{", "index.php": ""}, {})],
    "requirements_invalid": [({"requirements.txt": "-e ."}, {}), ({"pyproject.toml": "["}, {})],
    "go_mod_missing": [({"main.go": "package main"}, {})],
    "pom_unread": [({"pom.yaml": ""}, {})],
    "gradle_wrapper_missing": [({"build.gradle": "", "gradlew": ""}, {})],
    "lock_missing": [
        ({"package.json": NPM_PACKAGE}, {}),
        ({"Gemfile": ""}, {}),
        ({"composer.json": '{"require": {"a/b": "1"}}', "index.php": ""}, {}),
        ({"Pipfile": ""}, {}),
    ],
    "lock_alone": [({"uv.lock": "", "app.py": ""}, {})],
    "lock_invalid": [({"package.json": NPM_PACKAGE, "package-lock.json": "<<<<<<< HEAD"}, {})],
    "lock_out_of_step": [
        (
            {
                "package.json": NPM_PACKAGE,
                "server.js": "",
                "package-lock.json": '{"name": "x", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {}}}',
            },
            {},
        ),
        (
            {
                "go.mod": "module example.org/x\n\ngo 1.20\n",
                "main.go": 'package main\n\nimport _ "example.org/y"\n\nfunc main() {}\n',
            },
            {"env": {"GOPROXY": "off"}},
        ),
    ],
    "package_unknown": [({"requirements.txt": "rayfold-no-such-package==9.9\n", "app.py": ""}, {})],
    "registry_unreachable": [
        (
            {"requirements.txt": "bottle==0.13.2\n", "app.py": ""},
            {"env": {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "1", "PIP_FIND_LINKS": "/nonexistent"}},
        )
    ],
    "checksum_mismatch": [
        ({"package.json": NPM_PACKAGE, "package-lock.json": BROKEN_LOCK, "server.js": ""}, {}),
    ],
    "dependencies_failed": [({"requirements.txt": "bottle=!1\n", "app.py": ""}, {})],
    "compile_failed": [
        ({"go.mod": "module x\n\ngo 1.20\n", "main.go": "package main\n\nfunc main( {}\n"}, {}),
    ],
    "build_script_failed": [(script("echo went wrong; exit 4"), {})],
    "native_library_missing": [
        (script("echo 'x.c:1:10: fatal error: libpq-fe.h: No such file or directory'; exit 1"), {}),
    ],
    "out_of_memory": [
        (script("python3 -c 'bytearray(1 << 31)'"), {"limits": BuildLimits(memory_bytes=1024 * MIB)}),
        (script("kill -9 $$"), {}),
    ],
    "too_many_processes": [
        (
            script("n=0; while [ $n -lt 400 ]; do sleep 20 & n=$((n+1)); done; wait"),
            {"limits": BuildLimits(processes=60)},
        ),
    ],
    "source_too_big": [({"index.html": "x" * 100}, {"limits": BuildLimits(source_bytes=50)})],
}  # fmt: skip
# One case of each code in `make test`; the further ones of a code in `make test-all`.
CASES = [
    pytest.param(code, *case, id=f"{code}-{n}", marks=[pytest.mark.long] if n else [])
    for code, cases in FAILURES.items()
    for n, case in enumerate(cases)
]
_PROGRAMS = {"go.mod": "go", "Gemfile": "ruby", "composer.json": "php", "pom.yaml": "java", "main.go": "go"}


@pytest.mark.parametrize(("code", "files", "changes"), CASES)
async def test_a_failing_build_says_its_code_the_cause_and_the_fix(
    bench: Bench, tmp_path: Path, code: str, files: dict[str, str], changes: dict[str, Any]
) -> None:
    need(*(program for name, program in _PROGRAMS.items() if name in files))
    found = await bench.build(write_tree(tmp_path, files), user=USER, **changes)

    told = f"{found}\n{bench.text(found.build_id)}"
    assert found.state in (BuildState.FAILED, BuildState.TIMED_OUT), told
    if code == "source_too_big":
        assert found.code in ("source_too_big", "source_refused"), told
    else:
        assert found.code == code, told
    assert len(found.reason.split()) > 8
    assert f"docs/build-errors.md#{found.code}" in bench.text(found.build_id)
    assert list(bench.engine.dirs.work.iterdir()) == []


PROGRAMS_GONE = {
    "python_missing": ({"app.py": ""}, "python"),
    "node_missing": ({"package.json": "{}", "server.js": ""}, "node"),
    "go_missing": ({"go.mod": "module x\n", "main.go": "package main\n"}, "go"),
    "java_missing": ({"pom.xml": POM}, "java"),
    "php_missing": ({"index.php": ""}, "php"),
    "ruby_missing": ({"Gemfile": "", "Gemfile.lock": "GEM\n"}, "ruby"),
}


@pytest.mark.parametrize("code", PROGRAMS_GONE)
async def test_a_language_that_is_not_there_says_how_to_install_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    files, family = PROGRAMS_GONE[code]
    known = interpreters._FAMILIES[family]
    gone = type(known)(**{name: getattr(known, name) for name in known.__struct_fields__} | {"patterns": ("no-such",)})
    monkeypatch.setitem(interpreters._FAMILIES, family, gone)
    monkeypatch.setattr(interpreters.sys, "base_prefix", "/nonexistent")
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    assert found.code == code, found
    assert "apt-get install" in found.reason


PACKAGE_TOOLS_GONE = {
    "npm_missing": ({"package.json": NPM_PACKAGE, "package-lock.json": NPM_LOCK, "server.js": ""}, "node"),
    "maven_missing": ({"pom.xml": POM}, "java"),
    "composer_missing": ({"composer.json": "{}", "index.php": ""}, "php"),
    "bundler_missing": ({"Gemfile": "", "Gemfile.lock": "GEM\n", "app.rb": ""}, "ruby"),
}


@pytest.mark.parametrize("code", PACKAGE_TOOLS_GONE)
async def test_a_package_tool_that_is_not_there_says_how_to_install_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    files, program = PACKAGE_TOOLS_GONE[code]
    need(program)
    monkeypatch.setattr(interpreters, "_PLACES", ())
    monkeypatch.setattr(interpreters.shutil, "which", lambda name: None)
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    assert found.code == code, found
    assert "apt-get install" in found.reason or "apt-get " in found.reason


class _Refusing(BaseHTTPRequestHandler):
    """Answers every request with 401, as a private registry does."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a server that knows nobody."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_a_registry_that_refuses(bench: Bench, tmp_path: Path, refusing: str) -> None:
    lock = re.sub(r"https?://[^/\"]+", refusing, NPM_LOCK)
    env = {"npm_config_registry": refusing + "/"}
    tree = write_tree(tmp_path, {"package.json": NPM_PACKAGE, "package-lock.json": lock, "server.js": ""})
    found = await bench.build(tree, user=USER, env=env)
    assert found.code == "package_auth_refused", f"{found}\n{bench.text(found.build_id)}"


async def test_a_tool_that_cannot_be_fetched(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "PIP_FIND_LINKS": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    files = {"uv.lock": "version = 1\n", "pyproject.toml": "[project]\nname='x'\nversion='1'\n", "app.py": ""}
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    assert found.code == "tool_unavailable", f"{found}\n{bench.text(found.build_id)}"


async def test_gradle_that_cannot_be_downloaded(bench: Bench, tmp_path: Path) -> None:
    need("java")
    files = {
        "build.gradle": "",
        "gradle/wrapper/gradle-wrapper.jar": "not needed: the script below is what the wrapper's does first",
        "gradle/wrapper/gradle-wrapper.properties": "distributionUrl=http\\://127.0.0.1\\:9/gradle-8.5-bin.zip\n",
        "gradlew": "exec python3 -c \"import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/gradle.zip')\"\n",
    }
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    assert found.code == "gradle_download_refused", f"{found}\n{bench.text(found.build_id)}"
    assert "http://127.0.0.1:9/gradle-8.5-bin.zip" in found.reason


async def test_git_that_is_refused_or_finds_nobody(bench: Bench, refusing: str) -> None:
    async def code_of(url: str) -> str:
        return (await bench.engine.run(bench.request(SourceSpec(kind="git", url=url), user=USER))).code

    assert await code_of(f"{refusing}/x.git") == "git_auth_refused"
    assert await code_of(f"{NOWHERE}/x.git") == "git_unreachable"
    assert await code_of("file:///nonexistent/x.git") == "git_not_found"
    assert await code_of("ext::sh -c id") == "git_url_refused"


@pytest.mark.root
async def test_a_full_disk(bench: Bench, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    work = bench.engine.dirs.work
    mounted = await asyncio.to_thread(
        subprocess.run, ["mount", "-t", "tmpfs", "-o", "size=4m,mode=711", "none", work], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"this container may not mount: {mounted.stderr.strip()}")
    try:
        by_tool = await bench.build(write_tree(tmp_path / "a", script("head -c 9000000 /dev/zero > big")), user=USER)
        by_builder = await bench.build(write_tree(tmp_path / "b", {"index.html": "x" * 5_000_000}), user=USER)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", work], check=True)
    assert [by_tool.code, by_builder.code] == ["disk_full", "disk_full"], (by_tool, by_builder)


async def test_a_sub_directory_that_is_wrong(bench: Bench, tmp_path: Path) -> None:
    write_tree(tmp_path, {"site/index.html": "x"})
    git("init", "-q", "-b", "main", cwd=tmp_path)
    git("add", ".", cwd=tmp_path)
    git("commit", "-q", "-m", "First", cwd=tmp_path)
    codes = []
    for changes in ({"subdir": "siet"}, {"subdir": "../x"}, {"ref": "no-such-branch"}, {"ref": "a..b"}):
        source = SourceSpec(kind="git", url=f"file://{tmp_path}", **changes)
        codes.append((await bench.engine.run(bench.request(source, user=USER))).code)
    assert codes == ["subdir_missing", "subdir_refused", "git_ref_unknown", "git_ref_refused"]


# What tools of other machines print; each line was printed by the tool named.
LINES = [
    ("gcc", "psycopg/psycopg.h:35:10: fatal error: libpq-fe.h: No such file or directory", "native_library_missing"),
    ("pip", "Error: pg_config executable not found.", "native_library_missing"),
    ("ruby", "mkmf.rb can't find header files for ruby at /usr/lib/ruby/include/ruby.h", "native_library_missing"),
    ("node", "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "out_of_memory"),
    ("java", "java.lang.OutOfMemoryError: Java heap space", "out_of_memory"),
    ("npm", "npm error code E401", "package_auth_refused"),
    ("pip", "ERROR: HTTP error 403 while getting https://example.org/x.whl", "package_auth_refused"),
    ("npm", "npm error code E404", "package_unknown"),
    ("npm", "npm error code ENOTFOUND", "registry_unreachable"),
    ("go", "dial tcp: lookup modules.example.org: no such host", "registry_unreachable"),
    ("go", "verifying example.org/x@v1.0.0: checksum mismatch", "checksum_mismatch"),
    ("pip", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "checksum_mismatch"),
    ("sh", "sh: 1: cannot create big: No space left on device", "disk_full"),
    ("pip", "ERROR: Package 'x' requires a different Python: 3.11.2 not in '>=3.13'", "version_missing"),
    ("javac", "error: invalid target release: 25", "version_missing"),
    ("sh", "took 401 ms, 403 files", None),
]


@pytest.mark.parametrize(("tool", "line", "code"), LINES)
def test_what_tools_print_is_recognised(tool: str, line: str, code: str | None) -> None:
    known = diagnose(1, ["Building", line])
    assert (known[0] if known else None) == code, tool


def _names(node: ast.keyword | ast.Assign) -> list[str | None]:
    if isinstance(node, ast.keyword):
        return [node.arg]
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def codes_in_the_source() -> set[str]:
    """Every code that the builder's modules can raise: `code="…"`, `code = "…"` and those of `diagnosis`."""
    found = {cause.code for cause in CAUSES} | {f"{family}_missing" for family in interpreters._FAMILIES}
    for path in [path for room in ("builder", "containers") for path in (ROOT / "actors" / room).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword | ast.Assign) and "code" in _names(node):
                options = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
                found |= {str(each.value) for each in options if isinstance(each, ast.Constant)}
    return {code for code in found if code}


def test_every_code_has_its_section_and_every_section_its_code() -> None:
    sections = set(re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE))
    later = {
        "builder_died",
        "no_process",
        "not_ready",
        "crashed",
        "release_step_failed",
        "release_step_timed_out",
        "builder_machine",
        "timed_out",
    }
    later |= {"git_auth_refused", "git_unreachable", "git_not_found"}  # a table in git.py
    later |= {"git_host_key_unknown", "git_host_key_changed", "ssh_missing"}
    assert codes_in_the_source() - sections == set()
    assert sections - codes_in_the_source() - later == set()


def test_every_section_says_what_to_do() -> None:
    parts = re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(parts) >= 30
    assert [part.split("\n")[0] for part in parts if "**Do:** " not in part] == []
