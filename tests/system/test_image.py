"""The platform's image is built from the Containerfile by podman, and what is in it answers.

No image can be pulled here: the base is made of this machine's own Python, git, shell and libraries.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolchains import need

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("sh", "bash", "env", "git", "printf", "chmod", "mkdir", "rm", "cat", "ls", "tar", "id", "uname")
IMAGE = "localhost/rayfold:test"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_LIBRARY = re.compile(r"(/\S+) \(0x")
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*==\S+)", re.M)


def test_what_is_installed_in_the_image_is_what_is_tested() -> None:
    """The image's lock is a part of the developers' lock, and has all that an installed Rayfold asks for."""
    pinned = {
        name: set(_PIN.findall((ROOT / "requirements" / name).read_text())) for name in ("runtime.txt", "dev.txt")
    }
    assert pinned["runtime.txt"] < pinned["dev.txt"]
    names = {pin.partition("==")[0] for pin in pinned["runtime.txt"]}
    for line in (ROOT / "requirements" / "runtime.in").read_text().split():
        assert line.partition("[")[0].lower().replace("_", "-") in names, line


def _libraries(*programs: str) -> set[str]:
    """The shared libraries that programs and modules are linked with."""
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    return set(_LIBRARY.findall(done.stdout))


def _python() -> tuple[Path, Path]:
    """Where a Python is that has a directory of its own, which the system's has not, and its standard library."""
    ask = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('stdlib'), sep='\\n')"
    for program in (sys.executable, "python3", "python3.11", "python3.12"):
        if shutil.which(program):
            done = subprocess.run([program, "-c", ask], capture_output=True, text=True, check=False)
            if done.returncode == 0 and not done.stdout.startswith("/usr\n"):
                home, stdlib = done.stdout.split()
                return Path(home), Path(stdlib)
    pytest.skip("expected a Python of 3.11 or later outside /usr to make a base image of, found none")


def _base(path: Path) -> None:
    """A root file system with Python, pip and git."""
    home, stdlib = _python()
    programs = [found for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))]
    helpers = [str(p) for p in Path("/usr/lib/git-core").glob("git-remote-http*")]
    modules = [str(p) for p in home.rglob("*.so*")]
    files = {*programs, *helpers, *_libraries(*programs, *helpers, *modules, str(home / "bin" / "python3"))}
    # What wheels are linked with, and what looks names up.
    for name in (
        "libstdc++.so.6",
        "libgcc_s.so.1",
        "libz.so.1",
        "libnss_dns.so.2",
        "libnss_files.so.2",
        "libresolv.so.2",
    ):
        files |= {str(p) for p in Path("/usr/lib").glob(f"*/{name}")}

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        own = f"/{entry.name}"
        skipped = (f"{stdlib}/test", f"{stdlib}/config-", f"{stdlib}/idlelib", f"{home}/share", f"{home}/include")
        packages = f"{stdlib}/site-packages/"
        other = own.startswith(packages) and not own.startswith((f"{packages}pip", f"{packages}setuptools"))
        return None if own.startswith(skipped) or other or own.endswith((".a", ".pyc")) else entry

    with tarfile.open(path, "w") as archive:
        for directory, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("usr/local/bin", 0o755)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        for name in ("bin", "lib", "lib64", "sbin"):
            if (Path("/") / name).is_symlink():
                archive.add(f"/{name}", name)
        # By where they really lie: /lib and /usr/lib may be one.
        placed = {Path(os.path.realpath(Path(file).parent)) / Path(file).name: os.path.realpath(file) for file in files}
        for place, real in sorted(placed.items()):
            if not place.is_relative_to(home):
                archive.add(real, str(place).lstrip("/"))
        for file in ("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", str(CERTIFICATES)):
            archive.add(os.path.realpath(file), file.lstrip("/"))
        archive.add(home, str(home).lstrip("/"), filter=wanted)
        for name, target in (("python", f"{home}/bin/python3"), ("python3", f"{home}/bin/python3")):
            entry = tarfile.TarInfo(f"usr/local/bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)


class Podman:
    """podman with storage of its own."""

    def __init__(self, root: Path) -> None:
        self._options = ("--root", str(root / "graph"), "--runroot", str(root / "run"), "--storage-driver", "vfs",
                         "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "runc")  # fmt: skip

    def __call__(self, *words: str, seconds: float = 900.0) -> str:
        done = subprocess.run(
            ["podman", *self._options, *words], capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
        )
        assert done.returncode == 0, f"podman {' '.join(words)[:200]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def run(self, *words: str, entrypoint: str = "rayfold") -> str:
        """What a container of the image prints."""
        limits = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")  # those that this machine may give
        return self("run", "--rm", "--network", "none", *limits, "--entrypoint", entrypoint, IMAGE, *words)


@pytest.fixture
def podman() -> Iterator[Podman]:
    if os.getuid() != 0:
        pytest.skip("podman with storage of the suite's own needs root here")
    need("podman", "runc", "git", "bash")
    root = Path(tempfile.mkdtemp(prefix="rfi-", dir="/var/tmp"))
    try:
        yield Podman(root)
    finally:
        subprocess.run(["umount", "-q", str(root / "graph")], check=False)
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.servers
@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_podman_builds_the_image_and_the_platform_in_it_answers(podman: Podman, tmp_path: Path) -> None:
    _base(tmp_path / "base.tar")
    podman("import", str(tmp_path / "base.tar"), "localhost/rayfold-base:1")

    podman(
        "build", "--isolation", "chroot", "--network", "host", "--build-arg", "BASE=localhost/rayfold-base:1",
        "--env", f"PIP_CERT={CERTIFICATES}", "-t", IMAGE, "-f", "Containerfile", ".",
    )  # fmt: skip

    assert "rayfold deploy" in podman.run("--help")
    words = "import ray, api.up, actors.supervisor.actor, api.http.actor; print(ray.__version__)"
    assert podman.run("-c", words, entrypoint="python").strip().count(".") == 2
    found = set(podman.run("/opt/rayfold", entrypoint="ls").split())
    assert {"api", "cluster.yaml", "requirements"} <= found
    assert "tests" not in found
    config = podman("image", "inspect", "--format", "{{.Config.Entrypoint}} {{.Config.Cmd}}", IMAGE)
    assert config.split() == ["[rayfold]", "[up]"]
