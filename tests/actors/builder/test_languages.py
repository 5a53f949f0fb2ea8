"""Every language really built with its own tools, run as an application's user would run it, and asked over HTTP."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.builder.artifacts import read_manifest
from actors.builder.model import BuildOutcome, BuildState
from actors.builder.sbom import versions_in
from actors.builder.unpack import run_env, unpack_artifact
from tests.actors.builder.conftest import EXAMPLES, Bench, write_tree
from tests.toolchains import need

pytestmark = pytest.mark.servers  # most of them ask a package registry

USER = (70022, 70022) if os.getuid() == 0 else None
ANSWER_SECONDS = 60.0

# Example, the programs it needs, what it answers, and whether its second build takes the cached layer. Go, Java and the
# tools that have to be downloaded first are for `make test-all`.
_LONG = pytest.mark.long
# One that each example's package manager installs; a local one (php, ruby) is a package like any other.
PACKAGES = {
    "hello-php": "pkg:composer/example/greeting",
    "hello-uv": "pkg:pypi/",
    "hello-poetry": "pkg:pypi/",
    "hello-pipenv": "pkg:pypi/",
    "hello-yarn": "pkg:npm/",
    "hello-pnpm": "pkg:npm/",
    "hello-go": "pkg:golang/github.com/dustin/go-humanize",
}
LOCKED_HERE = {"hello-uv": "uv", "hello-pipenv": "pipenv"}
CASES = [
    pytest.param("hello-php", ("php", "composer"), "Hello from Rayfold on PHP\nasked for /\n", False, id="php"),
    pytest.param("hello-ruby", ("ruby", "bundle"), "Hello from Rayfold on Ruby\n", True, id="ruby"),
    pytest.param("hello-uv", (), "Hello from Rayfold with uv\n", True, id="uv", marks=_LONG),
    pytest.param("hello-poetry", (), "Hello from Rayfold with poetry\n", True, id="poetry", marks=_LONG),
    pytest.param("hello-pipenv", (), "Hello from Rayfold with pipenv\n", True, id="pipenv", marks=_LONG),
    pytest.param("hello-yarn", ("node",), "Hello from Rayfold with yarn\n", True, id="yarn", marks=_LONG),
    pytest.param("hello-pnpm", ("node",), "Hello from Rayfold with pnpm\n", True, id="pnpm", marks=_LONG),
    pytest.param("hello-spa", ("node",), "<!doctype html>", True, id="spa", marks=_LONG),
    pytest.param("hello-go", ("go",), "Hello from Rayfold on Go\n", True, id="go", marks=_LONG),
    pytest.param("hello-java", ("java", "mvn"), "Hello from Rayfold on Java\n", True, id="java", marks=_LONG),
]


@asynccontextmanager
async def running(bench: Bench, outcome: BuildOutcome) -> AsyncIterator[str]:
    """Run the artifact's `web` process; its address once it answers."""
    assert outcome.artifact is not None, f"{outcome}\n{bench.text(outcome.build_id)}"
    path = await unpack_artifact(bench.engine.store, outcome.artifact.digest, bench.root / "node", USER and USER[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"exec {outcome.artifact.processes['web']}"
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", command),
        cwd=path / "app",
        env={**run_env(path), "PORT": str(port), "HOME": "/nonexistent"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        user=USER[0] if USER else None,
        group=USER[1] if USER else None,
        extra_groups=[] if USER else None,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            while not await asyncio.to_thread(_listens, port):
                assert process.returncode is None, (await process.communicate())[0].decode()
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)  # as the runtime does: to all that the instance started
        try:
            async with asyncio.timeout(20):
                await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def ask(address: str, path: str = "/") -> str:
    def get() -> str:
        with urllib.request.urlopen(address + path, timeout=20) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(get)


def _locked(example: str, place: Path) -> Path:
    """The example; where its lock would name an index, a copy that its own tool has locked."""
    tool = LOCKED_HERE.get(example)
    if tool is None:
        return EXAMPLES / example
    subprocess.run([sys.executable, "-m", "venv", place / "tool"], check=True, timeout=120)
    subprocess.run([place / "tool/bin/pip", "install", "-q", tool], check=True, timeout=240)
    source = Path(shutil.copytree(EXAMPLES / example, place / example))
    subprocess.run([place / "tool/bin" / tool, "lock"], cwd=source, check=True, timeout=240, capture_output=True)
    return source


@pytest.mark.parametrize(("example", "programs", "answer", "cached"), CASES)
async def test_an_example_is_built_twice_and_answers(
    bench: Bench, example: str, programs: tuple[str, ...], answer: str, cached: bool, tmp_path: Path
) -> None:
    need(*programs)
    source = await asyncio.to_thread(_locked, example, tmp_path)
    first = await bench.build(source, user=USER)
    again = await bench.build(source, user=USER)

    async with running(bench, again) as address:
        assert (await ask(address)).startswith(answer)
    assert first.artifact is not None and again.artifact is not None
    assert (first.artifact.cache_hit, again.artifact.cache_hit) == (False, cached)
    bills = [await _bill(bench, outcome.artifact.digest) for outcome in (first, again)]
    assert bills[0] == bills[1]
    assert PACKAGES.get(example, "") in " ".join(bills[0]), bills[0]


async def _bill(bench: Bench, digest: str) -> dict[str, list[str]]:
    manifest = await read_manifest(bench.engine.store, digest)
    assert manifest.sbom is not None
    return versions_in((await bench.engine.store.local_path(manifest.sbom.digest)).read_bytes())


async def test_go_without_a_server_is_compiled_offline_and_its_second_build_finds_it_compiled(
    bench: Bench, tmp_path: Path
) -> None:
    need("go")
    main = 'package main\n\nimport "os"\n\nfunc main() { os.Stdout.WriteString("fine\\n") }\n'
    tree = write_tree(tmp_path, {"go.mod": "module example.org/small\n\ngo 1.20\n", "main.go": main})
    first = await bench.build(tree, user=USER, env={"GOPROXY": "off"})
    again = await bench.build(tree, user=USER, env={"GOPROXY": "off"})
    assert first.artifact is not None and again.artifact is not None, bench.text(first.build_id)
    assert again.artifact.cache_hit
    assert first.artifact.processes == {"web": "bin/small"}
    assert first.artifact.runtime == "system"
    path = await unpack_artifact(bench.engine.store, again.artifact.digest, bench.root / "node", None)
    done = await asyncio.to_thread(subprocess.run, [path / "app/bin/small"], capture_output=True, timeout=30)
    assert done.stdout == b"fine\n"
    assert again.artifact.digest == first.artifact.digest


async def test_a_spa_answers_for_every_path_of_its_own_but_not_for_missing_files(bench: Bench, tmp_path: Path) -> None:
    build = 'require("fs").mkdirSync("build"); require("fs").writeFileSync("build/index.html", "<p>app</p>")'
    # react-scripts is what says that the build makes files only; it is not needed for this build script.
    package = '{"scripts": {"build": "node build.js"}, "optionalDependencies": {}, "dependencies": {}}'
    tree = write_tree(
        tmp_path, {"package.json": package, "build.js": build, "rayfold.toml": '[build]\nroot = "build"\n'}
    )
    found = await bench.build(tree, user=USER)
    async with running(bench, found) as address:
        assert await ask(address, "/users/7") == "<p>app</p>"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await ask(address, "/logo.png")


def _compile_jar(directory: Path) -> Path:
    """A jar with a main class, made by the JDK's own tools."""
    source = EXAMPLES / "hello-java/src/main/java/hello/Hello.java"
    subprocess.run(["javac", "-d", directory / "classes", source], check=True, timeout=120)
    jar = directory / "hello.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: hello.Hello\n\n")
        for path in (directory / "classes").rglob("*.class"):
            archive.write(path, path.relative_to(directory / "classes").as_posix())
    shutil.rmtree(directory / "classes")
    return jar


async def test_a_ready_made_jar_answers_and_a_library_is_refused(bench: Bench, tmp_path: Path) -> None:
    need("java", "javac")
    await asyncio.to_thread(_compile_jar, tmp_path)
    found = await bench.build(tmp_path, user=USER)
    async with running(bench, found) as address:
        assert await ask(address) == "Hello from Rayfold on Java\n"

    with zipfile.ZipFile(tmp_path / "hello.jar", "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n\n")
    refused = await bench.build(tmp_path, user=USER)
    assert (refused.state, refused.code) == (BuildState.FAILED, "jar_not_executable")


@pytest.mark.long
async def test_a_ready_made_war_answers_in_a_servlet_container(bench: Bench, tmp_path: Path) -> None:
    need("java", "mvn")
    with zipfile.ZipFile(tmp_path / "hello.war", "w") as archive:
        archive.writestr("index.html", "hello from a war")
        archive.writestr("WEB-INF/web.xml", '<web-app version="3.1"></web-app>')
    found = await bench.build(tmp_path, user=USER)
    async with running(bench, found) as address:
        assert await ask(address, "/index.html") == "hello from a war"


async def test_a_gem_from_vendor_cache_is_installed_without_a_registry(bench: Bench, tmp_path: Path) -> None:
    need("ruby", "gem", "bundle")
    spec = (EXAMPLES / "hello-ruby/lib/greeting/greeting.gemspec").read_text()
    library = (EXAMPLES / "hello-ruby/lib/greeting/lib/greeting.rb").read_text()
    made = write_tree(tmp_path / "gem", {"greeting.gemspec": spec, "lib/greeting.rb": library})
    await asyncio.to_thread(
        subprocess.run,
        ["gem", "build", "-q", "greeting.gemspec"],
        cwd=made,
        check=True,
        timeout=60,
        capture_output=True,
    )
    tree = tmp_path / "app"
    lock = "GEM\n  remote: https://gems.example.org/\n  specs:\n    greeting (1.0.0)\n\nPLATFORMS\n  x86_64-linux\n\n"
    files = {
        "Gemfile": 'source "https://gems.example.org"\ngem "greeting"\n',
        "Gemfile.lock": lock + "DEPENDENCIES\n  greeting\n\nBUNDLED WITH\n   2.3.15\n",
        "app.rb": (EXAMPLES / "hello-ruby/app.rb").read_text(),
    }
    write_tree(tree, files)
    (tree / "vendor/cache").mkdir(parents=True)
    (made / "greeting-1.0.0.gem").rename(tree / "vendor/cache/greeting-1.0.0.gem")
    found = await bench.build(tree, user=USER)
    async with running(bench, found) as address:
        assert await ask(address) == "Hello from Rayfold on Ruby\n"


async def test_php_gives_out_neither_packages_nor_hidden_files(bench: Bench, tmp_path: Path) -> None:
    need("php")
    files = {
        "index.php": "<?php echo 'page';",
        "app.css": "p{}",
        ".env": "SECRET=1",
        "vendor/x.php": "<?php echo 'no';",
    }
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    async with running(bench, found) as address:
        assert await ask(address, "/app.css") == "p{}"
        assert await ask(address, "/any/page") == "page"
        for hidden in ("/.env", "/vendor/x.php", "/%2e%65nv", "/.rayfold/php_router.php"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                await ask(address, hidden)


VERSIONS = {
    "python": ({"requirements.txt": "", "app.py": "", ".python-version": "2.6"}, "python3", ".python-version asks"),
    "node": (
        {"package.json": '{"engines": {"node": "^4"}}', "server.js": ""},
        "node",
        "engines.node) asks for Node ^4",
    ),
    "go": ({"go.mod": "module x\n\ngo 9.1\n", "main.go": "package main\nfunc main() {}"}, "go", "go 9.1 or later"),
    "java": ({"pom.xml": "<project/>", "system.properties": "java.runtime.version=5"}, "java", "asks for Java 5"),
    "php": ({"composer.json": '{"require": {"php": "^5.2"}}', "index.php": ""}, "php", "PHP ^5.2"),
    "ruby": (
        {"Gemfile": "", "Gemfile.lock": "x", ".ruby-version": "1.8.7"},
        "ruby",
        ".ruby-version asks for Ruby 1.8.7",
    ),
}


@pytest.mark.parametrize("language", VERSIONS)
async def test_a_version_that_is_not_installed_is_refused_with_those_that_are(
    bench: Bench, tmp_path: Path, language: str
) -> None:
    files, program, told = VERSIONS[language]
    need(program)
    found = await bench.build(write_tree(tmp_path, files), user=USER)
    assert (found.state, found.code) == (BuildState.FAILED, "version_missing"), found
    assert told in found.reason and "installed:" in found.reason and "change that line" in found.reason
