"""What a platform on somebody else's Ray cluster hands to its own processes there, and whose actors it takes off."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.cluster.ray_head import RayHead
from actors.cluster.ray_joined import JOB_CONFIG, JoinedRay
from actors.cluster.settings import PlatformSettings
from events.log.etcd_connection import EtcdSettings

REPOSITORY = Path(__file__).resolve().parents[3]
MAKE = """
import ray, sys
from pathlib import Path
from actors.cluster.pools import Pool, ensure_actor
from actors.cluster.settings import load_settings
settings = load_settings(Path(sys.argv[1]))
ray.init(address=settings.ray_address, namespace=settings.ray_namespace, log_to_driver=False)
ensure_actor(Pool(name="archiver", actor="actors.archiver:Archiver"), "archiver-0", settings)
print(sorted(a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)))
"""
LIST = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print(sorted(a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rf-"))  # short: Ray's sockets lie in it
    yield path
    shutil.rmtree(path, ignore_errors=True)


def environment_of(data: Path, code: Path) -> dict[str, str]:
    return JoinedRay(address="10.0.0.1:6379", data=data, import_path=code).environment()


def test_without_a_job_nothing_is_said_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    assert JOB_CONFIG not in environment_of(tmp_path, tmp_path / "code" / "1")


@pytest.mark.parametrize("inside", [True, False])
def test_a_jobs_variables_hold_for_the_actors_and_its_packages_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    told = {"working_dir": "gcs://_ray_pkg_1.zip", "py_modules": ["gcs://_ray_pkg_2.zip"], "env_vars": {"A": "1"}}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": told, "metadata": {"job_submission_id": "raysubmit_1"}}))
    code = tmp_path / "code" / "1" if inside else Path("/opt/rayfold")

    found = json.loads(environment_of(tmp_path, code)[JOB_CONFIG])

    path = {"PYTHONPATH": str(code)} if inside else {}
    assert found == {"runtime_env": {"env_vars": {"A": "1", **path}}}


@pytest.mark.servers
def test_of_two_platforms_on_a_cluster_one_leaves_and_the_other_stays(base: Path) -> None:
    head = RayHead(state_dir=base / "state", temp_dir=base / "ray", import_path=REPOSITORY)
    try:
        address = head.ensure()
        environment = {**os.environ, **head.environment()}

        def python(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=60, check=True
            )
            return done.stdout.strip()

        for name in ("first", "second"):
            (base / name).mkdir()
            PlatformSettings(
                data=str(base / name), run=str(base / name), node_root=str(base / name), node="here",
                etcd=EtcdSettings(endpoints=("127.0.0.1:1",)), database_url="sqlite://", ray_address=address,
                ray_joined=True, ray_namespace=f"rayfold-{name}",
            ).save()  # fmt: skip
            made = python("-c", MAKE, str(base / name))
        assert made == "['rayfold-first', 'rayfold-second']", "one of each, under the same name"

        python("-m", "actors.cluster.dismiss", str(base / "second"))

        assert python("-c", LIST, address) == "['rayfold-first']"
    finally:
        head.stop()


def test_settings_of_an_older_version_name_their_actors_as_it_did(tmp_path: Path) -> None:
    settings = PlatformSettings(
        data=str(tmp_path), run="/r", node_root="/n", node="here", etcd=EtcdSettings(endpoints=("e:1",)),
        database_url="sqlite://",
    )  # fmt: skip
    older = {k: v for k, v in msgspec.to_builtins(settings).items() if k != "ray_namespace"}
    assert msgspec.convert(older, PlatformSettings).ray_namespace == "rayfold"
