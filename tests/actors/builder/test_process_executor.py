"""The process executor: what was fetched stays as it was whatever the build's commands try, and who has the network."""

import io
import json
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from actors.builder.interpreters import find_interpreter
from actors.builder.languages.plan import Workbench
from actors.builder.log import BuildLog, Mask
from actors.builder.model import BuildOutcome, ComponentSettings, SourceSpec
from actors.builder.unpack import unpack_artifact
from tests.actors.builder.conftest import Bench, write_tree
from tests.actors.builder.executor_contract import ExecutorContract

USER = (70033, 70033) if os.getuid() == 0 else None
LAUNCHER = Path(__file__).resolve().parents[3] / "actors" / "builder" / "launch.py"

# Tries to write to the fetched source, which lies beside the build's home; says how that went, and what it could do.
SPOIL = """
import os
src = os.path.join(os.environ["HOME"], "..", "src")
try:
    open(os.path.join(src, "app.py"), "a").write("# spoilt")
    said = "spoilt"
except OSError as error:
    said = f"refused: {error.strerror}"
try:
    open(os.path.join(src, "new"), "w").close()
    said += ", added"
except OSError:
    said += ", nothing added"
"""
# A build backend of its own, so that nothing has to be asked of an index.
BACKEND = (
    SPOIL
    + """
open("made_while_installing", "w").close()
def build_wheel(where, config_settings=None, metadata_directory=None):
    import zipfile
    with zipfile.ZipFile(os.path.join(where, "inner-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("inner.py", f"said = {said!r}")
        wheel.writestr("inner-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: inner\\nVersion: 1\\n")
        wheel.writestr("inner-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("inner-1.dist-info/RECORD", "")
    return "inner-1-py3-none-any.whl"
"""
)


class TestContract(ExecutorContract):
    @pytest.fixture
    async def bench(self, open_dir: Path) -> Bench:
        made = Bench(open_dir)
        await made.engine.start()
        return made


async def app_of(bench: Bench, found: BuildOutcome) -> Path:
    assert found.artifact is not None, f"{found}\n{bench.text(found.build_id)}"
    return await unpack_artifact(bench.engine.store, found.artifact.digest, bench.root / "node", (USER or [None])[-1])


@pytest.mark.servers
async def test_a_python_package_that_is_built_cannot_change_the_source(bench: Bench, tmp_path: Path) -> None:
    files = {
        "requirements.txt": "./inner\n",
        "app.py": "print('as fetched')\n",
        "inner/pyproject.toml": (
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[project]\nname = "inner"\nversion = "1"\n'
        ),
        "inner/backend.py": BACKEND,
    }
    path = await app_of(bench, await bench.build(write_tree(tmp_path, files), user=USER))

    said = (path / "deps/inner.py").read_text()
    assert "refused" in said and "nothing added" in said, said
    held = {str(each.relative_to(path / "app")) for each in (path / "app").rglob("*") if each.is_file()}
    assert {name for name in held if "__pycache__" not in name} == set(files), "what it made there was thrown away"
    assert {name: (path / "app" / name).read_text() for name in files} == files


def packed(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.servers
async def test_a_node_packages_script_cannot_change_the_source_and_the_projects_own_has_no_network(
    bench: Bench, tmp_path: Path
) -> None:
    spoil = SPOIL + 'open("said", "w").write(said)\n'
    asks = "import socket\ntry:\n    socket.create_connection(('127.0.0.1', {0}), 2)\n    said += ', reached'\n"
    asks += "except OSError:\n    said += ', cut off'\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = SPOIL + asks.format(listener.getsockname()[1]) + 'open("own", "w").write(said)\n'
        describes = {
            "name": "x", "version": "1.0.0", "dependencies": {"dep": "file:dep.tgz"},
            "scripts": {"postinstall": "python3 own.py", "start": "node app.js"},
        }  # fmt: skip
        top = {name: describes[name] for name in ("name", "version", "dependencies")}
        dep = {"version": "1.0.0", "resolved": "file:dep.tgz", "hasInstallScript": True}
        lock = {"name": "x", "version": "1.0.0", "lockfileVersion": 3, "requires": True,
                "packages": {"": top, "node_modules/dep": dep}}  # fmt: skip
        files = {"package.json": json.dumps(describes), "package-lock.json": json.dumps(lock), "app.py": "",
                 "own.py": own}  # fmt: skip
        (write_tree(tmp_path, files) / "dep.tgz").write_bytes(
            packed({
                "package.json": '{"name": "dep", "version": "1.0.0", "scripts": {"postinstall": "python3 spoil.py"}}',
                "spoil.py": spoil,
            })
        )  # fmt: skip
        found = await bench.build(tmp_path, user=USER)
        path = await app_of(bench, found)

    said, own_said = ((path / "app" / name).read_text() for name in ("node_modules/dep/said", "own"))
    assert "refused" in said and "nothing added" in said, said
    assert "refused" in own_said, own_said
    if USER is not None and "cannot be taken away" not in bench.text(found.build_id):
        assert "cut off" in own_said
    assert {name: (path / "app" / name).read_text() for name in files} == files


@pytest.mark.servers
async def test_what_a_workspace_makes_of_itself_when_it_is_installed_is_published(bench: Bench, tmp_path: Path) -> None:
    inner = {"name": "inner", "version": "1.0.0", "main": "dist/index.js", "scripts": {"prepare": "node make.js"}}
    top = {"name": "x", "version": "1.0.0", "workspaces": ["packages/*"], "dependencies": {"inner": "1.0.0"}}
    lock = {
        "name": "x", "version": "1.0.0", "lockfileVersion": 3, "requires": True,
        "packages": {
            "": top, "node_modules/inner": {"resolved": "packages/inner", "link": True},
            "packages/inner": {"version": "1.0.0"},
        },
    }  # fmt: skip
    scripts = {"build": "node build.js", "start": "node app.js", "prepare": "node last.js"}
    files = {
        "package.json": json.dumps({**top, "scripts": scripts}),
        "package-lock.json": json.dumps(lock),
        "build.js": "require('fs').writeFileSync('built', require('inner').said)",
        "last.js": "require('fs').writeFileSync('last', require('inner').said)",
        "app.js": "",
        "packages/inner/package.json": json.dumps(inner),
        "packages/inner/make.js": (
            "const fs = require('fs'); fs.mkdirSync('dist');"
            "fs.writeFileSync('dist/index.js', 'exports.said = \"made\"')"
        ),
    }
    path = await app_of(bench, await bench.build(write_tree(tmp_path, files), user=USER))

    assert (path / "app/node_modules/inner/dist/index.js").read_text() == 'exports.said = "made"'
    assert ((path / "app/last").read_text(), (path / "app/built").read_text()) == ("made", "made")
    assert {name: (path / "app" / name).read_text() for name in files} == files


async def workbench(bench: Bench, tmp_path: Path) -> Workbench:
    log = BuildLog(tmp_path / "log", sink=None, mask=Mask({}), limit_bytes=10_000)
    await log.open()
    request = bench.request(SourceSpec(kind="upload"))
    return Workbench(request=request, work=tmp_path, settings=ComponentSettings(), log=log, tools=tmp_path)


async def test_what_is_copied_is_the_source_as_it_was_fetched_also_while_it_is_built(
    bench: Bench, tmp_path: Path
) -> None:
    work = await workbench(bench, tmp_path)
    write_tree(work.source, {"service/app.py": "fetched", "shared.py": "fetched"})
    work.root = work.source / "service"
    await work.begin_building()
    assert work.root == tmp_path / "app" / "service"
    (work.root / "app.py").write_text("changed")
    copy = await work.working_copy("try")
    assert (copy, (copy / "app.py").read_text()) == (tmp_path / "try" / "service", "fetched")
    (copy / "app.py").write_text("changed")
    assert (await work.working_copy("try") / "app.py").read_text() == "fetched"


async def test_only_the_step_that_fetches_dependencies_gets_the_network(bench: Bench, tmp_path: Path) -> None:
    work = await workbench(bench, tmp_path)

    async def run(*, network: bool) -> None:
        env = work.environment()
        await work.run(["true"], cwd=tmp_path, env=env, code="x", failed="x", network=network)

    work.source.mkdir()
    async with work.step("dependencies"):
        await run(network=True)
    async with work.step("build"):
        await run(network=False)
        with pytest.raises(RuntimeError, match="expected the network in the step 'dependencies' only"):
            await run(network=True)
        async with work.step("dependencies"):
            await run(network=True)
        with pytest.raises(RuntimeError, match="found 'build'"):
            await run(network=True)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become an ordinary user")
def test_without_another_user_the_source_is_mounted_read_only_or_the_output_says_so(open_dir: Path) -> None:
    source = open_dir / "src"
    source.mkdir()
    os.chown(source, 70034, 70034)
    launcher = open_dir / "launch.py"
    launcher.write_bytes(LAUNCHER.read_bytes())
    script = f"touch {source}/new; chmod 777 {source}; umount {source}; mount -o remount,rw {source}; touch {source}/n"
    spec = {
        "parent": os.getpid(), "argv": ["sh", "-c", script], "env": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        "cwd": str(open_dir), "user": None, "network": True, "read_only": [str(source)], "limits": {},
    }  # fmt: skip
    python = find_interpreter("python", wanted="", for_others=True).path
    done = subprocess.run(
        [python, "-I", "-S", launcher], input=json.dumps(spec), capture_output=True, text=True, check=False,
        user=70034, group=70034, extra_groups=[],
    )  # fmt: skip
    if "cannot be made read-only" not in done.stderr:
        assert list(source.iterdir()) == [], done.stderr
        assert "Read-only file system" in done.stderr
