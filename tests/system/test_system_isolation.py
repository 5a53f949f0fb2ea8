"""From inside an application with a user of its own: everything of the platform and of other applications is out of
reach. Each way in is tried."""

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import psutil
import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform

pytestmark = [
    pytest.mark.system,
    pytest.mark.servers,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives every application a user of its own"),
]

Probe = Callable[..., Any]
PROC_FILES = ("environ", "mem", "maps", "fd", "root", "cwd", "auxv")
# One method of every service that Ray's processes offer: what can start work, read the cluster or end it.
RAY_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "/ray.rpc.InternalKVGcsService/InternalKVGet",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo", "/ray.rpc.JobInfoGcsService/AddJob",
    "/ray.rpc.NodeManagerService/RequestWorkerLease", "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/Push", "/ray.rpc.CoreWorkerService/PushTask", "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.ReporterService/GetTraceback", "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.RayletDataStreamer/Datapath",
)  # fmt: skip


@pytest.fixture
def probe(platform: Platform, deploy: Deploy) -> Probe:
    """Have the application `prober` try one thing; what came of it."""
    if platform.visit("prober").status == 404:
        deploy("prober", apps.prober())
        deploy("victim", apps.web("victim"))

    def run(kind: str, **options: object) -> Any:
        answer = platform.visit("prober", body=apps.dumps([{"kind": kind, **options}]))
        assert answer.status == 200, answer
        return answer.json[0]

    return run


@pytest.fixture(scope="module")
def library() -> Iterator[str]:
    """The grpc package where every user may read it."""
    directory = Path(tempfile.mkdtemp(prefix="rf-grpc-", dir="/tmp"))
    try:
        directory.chmod(0o755)
        shutil.copytree(Path(grpc.__file__).parent, directory / "grpc", ignore=shutil.ignore_patterns("__pycache__"))
        extensions = Path(grpc.__file__).parent.parent / "typing_extensions.py"
        shutil.copy(extensions, directory)
        yield str(directory)
    finally:
        shutil.rmtree(directory)


def _tree(*roots: Path) -> list[str]:
    return [str(path) for root in roots for path in (root, *root.rglob("*")) if not path.is_symlink()]


def _listening(platform: Platform, *words: str) -> list[int]:
    """Ports on which processes with these words on their command lines listen."""
    ports = set()
    for process in platform.processes():
        line = " ".join(process.cmdline())
        if any(word in line for word in words):
            found = process.net_connections("tcp")
            ports |= {c.laddr.port for c in found if c.status == psutil.CONN_LISTEN}
    return sorted(ports)


def test_it_is_nobody(platform: Platform, probe: Probe) -> None:
    told = probe("self")

    assert told["uid"] >= 1000
    assert told["gid"] >= 1000
    assert told["groups"] == []
    assert told["no_new_privs"] == "1"
    assert int(told["capabilities"], 16) == 0
    opened = {link for link in told["descriptors"].values() if not link.startswith("socket:")}
    kinds = {"/dev/null" if link == "/dev/null" else link.partition(":")[0] for link in opened}
    assert all(link == "/dev/null" or link.endswith(("/io/out", "/io/err")) for link in opened), kinds
    # Listening, and this request; one more connection may be kept open by the gateway.
    assert sum(link.startswith("socket:") for link in told["descriptors"].values()) <= 4, told["descriptors"]
    environment = told["environment"]
    assert not [name for name in environment if name.startswith(("RAY_", "ETCD", "LD_"))], environment
    secrets = {path.read_text().strip() for path in (platform.data / "tokens").iterdir()}
    secrets.add((platform.data / "ray" / "token").read_text().strip())
    assert not secrets & set(environment.values())
    victim = psutil.Process(platform.serving("victim")["pid"])
    assert victim.uids().real not in (0, told["uid"]), "each application has a user of its own"


def test_no_file_of_the_platform_or_of_another_application(platform: Platform, probe: Probe) -> None:
    itself = probe("self")
    paths = _tree(platform.data)
    assert len(paths) > 100, "the walk must see what is there"

    kept = platform.data / "node" / "unpacked"
    mine = [kept / kind / str(itself["gid"]) for kind in ("artifacts", "layers")]
    tools = platform.data / "node" / "tools"  # pip as anyone can download it: builds of every user read it
    own = tuple(str(path) for path in (Path(itself["environment"]["HOME"]).parent, tools, *mine))
    readable = [path for path in probe("read", paths=paths) if not path.startswith(own)]
    assert readable == [], [(path, oct(os.stat(path).st_mode)) for path in readable]
    writable = [p for p in probe("write", paths=paths) if not p.startswith(itself["environment"]["HOME"])]
    assert [p for p in writable if not p.startswith(itself["environment"]["TMPDIR"])] == []


def test_no_process_of_the_platform_or_of_another_application(platform: Platform, probe: Probe) -> None:
    itself = probe("self")["pid"]
    pids = [p.pid for p in platform.processes() if p.pid != itself]
    assert len(pids) > 10

    assert probe("read", paths=[f"/proc/{pid}/{name}" for pid in pids for name in PROC_FILES]) == []
    assert probe("kill", pids=pids) == []


def test_no_etcd(platform: Platform, probe: Probe) -> None:
    ports = _listening(platform, "/etcd")
    assert len(ports) >= 2, "client and peer port"
    for port in ports:
        refused = probe("tls", port=port)
        assert isinstance(refused, str), refused
        assert "HTTP/" not in refused, f"etcd answered one without a certificate: {refused}"
        plain = probe("http", port=port, path="/version")
        assert isinstance(plain, str) or plain >= 400, plain


def test_no_ray(platform: Platform, probe: Probe, library: str) -> None:
    ports = _listening(platform, "/ray/", "ray::", "ray.")
    own = {platform.api_port, *_listening(platform, "ray::EventlogPartition")[-1:]}
    assert len(ports) >= 8, ports

    found: dict[str, str] = probe(
        "grpc", library=library, ports=[p for p in ports if p not in own], methods=RAY_METHODS
    )

    allowed = {call: code for call, code in found.items() if code not in ("UNAUTHENTICATED", "UNIMPLEMENTED")}
    assert set(allowed.values()) <= {"UNAVAILABLE"}, f"expected no call to be let through: {allowed}"
    refused = {call.split(" ")[1].split("/")[1] for call, code in found.items() if code == "UNAUTHENTICATED"}
    assert {"ray.rpc.NodeInfoGcsService", "ray.rpc.NodeManagerService", "ray.rpc.CoreWorkerService"} <= refused
    for port in ports:
        if port in own:
            continue
        for path in ("/api/job_agent/jobs/", "/get_or_create_runtime_env"):
            answer = probe("http", port=port, path=path, method="POST", headers={"Content-Type": "application/json"})
            assert answer in (401, 404, 405) or isinstance(answer, str), f"{port}{path}: {answer}"


def test_no_socket_of_the_gateway(platform: Platform, probe: Probe) -> None:
    run = platform.data / "run"
    sockets = [str(path) for path in run.rglob("*") if path.is_socket()]
    assert {"xds.sock", "admin.sock"} <= {Path(path).name for path in sockets}
    assert probe("read", paths=sockets) == []
    # What the gateway itself offers to everyone shows nothing of its insides.
    for path in ("/config_dump", "/clusters", "/quitquitquit"):
        assert probe("http", port=platform.gateway_port, path=path) == 404


def test_no_log_intake(platform: Platform, probe: Probe) -> None:
    port = int((platform.data / "run" / "eventlog" / "eventlog-0.addr").read_text().rpartition(":")[2])
    for token in ("", "x" * 43):
        hello = msgspec.msgpack.encode({"type": "hello", "version": 1, "token": token, "node": "n"})
        answer = probe("frame", port=port, hex=(struct.pack(">I", len(hello)) + hello).hex())
        assert "welcome" not in answer
        assert "refused" in answer or answer == "", answer


def test_no_api_without_a_token(platform: Platform, probe: Probe) -> None:
    before = platform.events_in_all()
    paths = ("/v1/status", "/v1/events", "/v1/teams", "/metrics", platform.component("victim", "config"))
    assert [probe("http", port=platform.api_port, path=path) for path in paths] == [401] * len(paths)
    wrong = {"Authorization": "Bearer " + "x" * 43}
    assert probe("http", port=platform.api_port, path="/v1/status", headers=wrong) == 401
    deploys = platform.component("victim", "deploys")
    assert probe("http", port=platform.api_port, path=deploys, method="POST") == 401
    assert platform.events_in_all() == before
