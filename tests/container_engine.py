"""A real container engine and a real registry, started for the suite: podman's Docker API and Debian's docker-registry.

The engine has storage, networks and configuration of its own below a new directory, nothing of the machine's; base
images are made of the machine's own files, for none can be pulled.
"""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from actors.containers.engine import API_VERSION
from tests.toolchains import need

BUSYBOX = "rayfold-test/busybox:1"
_APPLETS = (
    "sh",
    "cat",
    "echo",
    "env",
    "false",
    "head",
    "httpd",
    "id",
    "ls",
    "mkdir",
    "nc",
    "sleep",
    "touch",
    "tr",
    "true",
)
_START_SECONDS = 30.0


class Engine:
    """A running engine: `address` is what a client is given, `registry` (host:port) what it may push to."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.registry = registry
        self.address = f"unix://{root}/engine.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._env = {
            **os.environ,
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(root / "registries.conf"),
        }
        limits = 'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]'
        engine = f'runtime = "runc"\ncgroup_manager = "cgroupfs"\ntmp_dir = "{root}/tmp"\nevents_logger = "none"'
        network = f'network_config_dir = "{root}/networks"\nnetwork_backend = "cni"'
        (root / "containers.conf").write_text(f"[containers]\n{limits}\n[engine]\n{engine}\n[network]\n{network}\n")
        storage = f'driver = "vfs"\nrunroot = "{root}/run"\ngraphroot = "{root}/graph"'
        (root / "storage.conf").write_text(f"[storage]\n{storage}\n")
        insecure = f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
        (root / "registries.conf").write_text(f"unqualified-search-registries = []\n{insecure}")
        for name in ("tmp", "networks"):
            (root / name).mkdir()

    def client(self) -> "docker.APIClient":
        return docker.APIClient(base_url=self.address, version=API_VERSION, timeout=60)

    def start(self) -> None:
        """Start, or start again after `kill`."""
        command = ["podman", "system", "service", "--time=0", self.address]
        with (self.root / "engine.log").open("ab") as log:
            # Its monitors leave a file `oom` where they were started.
            self._process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except (docker.errors.DockerException, OSError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.root / "engine.log").read_text()[-2000:]) from None
                time.sleep(0.1)

    def kill(self) -> None:
        """Kill the engine; containers run on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        """End the engine and everything that it runs."""
        with suppress(docker.errors.DockerException, OSError), self.client() as client:
            for each in client.containers(all=True):
                client.remove_container(each["Id"], force=True)
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def add_image(self, name: str, tree: bytes, **config: Any) -> None:
        """Make an image of a tar; `config` as `CMD=...`, `EXPOSE=...` lines of a Dockerfile."""
        repository, _, tag = name.rpartition(":")
        changes = [f"{key} {value}" for key, value in config.items()]
        with self.client() as client:
            told = client.import_image_from_data(tree, repository="localhost/imported", tag="x", changes=changes)
            assert "error" not in told, told
            for each in client.images():
                if any(tag.startswith("localhost/imported") for tag in each["RepoTags"] or ()):
                    client.tag(each["Id"], f"{self.registry}/{repository}", tag)
                    client.remove_image(next(t for t in each["RepoTags"] if t.startswith("localhost/imported")))
            lines = list(client.push(f"{self.registry}/{repository}", tag=tag, stream=True, decode=True))
            assert not any("error" in line for line in lines), lines


@contextmanager
def running_registry(root: Path, *, deletes: bool = True) -> Iterator[str]:
    """A registry on a free port of this machine; yields host:port. By itself it would delete nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = root / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/blobs\n"
        f"  delete:\n    enabled: {str(deletes).lower()}\n"
        f"http:\n  addr: 127.0.0.1:{port}\nlog:\n  level: warn\n"
    )
    with (root / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, (root / "registry.log").read_text()
                time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def running_engine() -> Iterator[Engine]:
    """An engine and a registry with the base images in both. Skips, with the reason, where that cannot be."""
    if os.getuid() != 0:
        pytest.skip("a container engine of the suite's own needs root here")
    need("podman", "runc", "docker-registry", "busybox")
    root = Path(tempfile.mkdtemp(prefix="rfc-", dir="/var/tmp"))
    try:
        with running_registry(root) as registry:
            engine = Engine(root, registry)
            engine.start()
            try:
                engine.add_image(BUSYBOX, busybox_tree(), CMD='["/bin/sh"]')
                yield engine
            finally:
                engine.stop()
    finally:
        subprocess.run(["umount", "-q", str(root / "graph")], check=False)
        shutil.rmtree(root, ignore_errors=True)


def busybox_tree() -> bytes:
    """A root file system of one static program."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755), ("app", 0o755)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        archive.add(os.path.realpath(shutil.which("busybox") or ""), "bin/busybox")
        for name in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return out.getvalue()
