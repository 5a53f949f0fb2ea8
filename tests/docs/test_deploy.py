"""The manifests of docs/deploy are well-formed, and name what the platform really reads."""

import tomllib
from pathlib import Path

import msgspec
import yaml

from actors.cluster.settings import DEFAULT_API_PORT, DEFAULT_GATEWAY_PORT
from api.config import PlatformConfig

MANIFESTS = Path(__file__).resolve().parents[2] / "docs" / "deploy" / "kuberay.yaml"


def test_the_manifests_are_a_cluster_a_job_and_what_they_need() -> None:
    found = list(yaml.safe_load_all(MANIFESTS.read_text()))
    kinds = [document["kind"] for document in found]
    assert kinds == ["PersistentVolumeClaim", "ConfigMap", "RayCluster", "Service", "Job"]
    claim, config = (document["metadata"]["name"] for document in found[:2])
    cluster, job = found[2]["spec"], found[4]["spec"]["template"]["spec"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
        assert volumes["config"]["configMap"]["name"] == config
        mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        told = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
        assert told["RAYFOLD_DATA"] in mounted
        assert told["RAY_AUTH_MODE"] == "token"
    assert job["containers"][0]["command"][-4:] == ["python", "-m", "api.cli", "up"]


def test_the_cluster_says_which_ray_its_image_has() -> None:
    found = list(yaml.safe_load_all(MANIFESTS.read_text()))
    locked = (MANIFESTS.parents[2] / "requirements" / "runtime.txt").read_text()
    assert f"ray=={found[2]['spec']['rayVersion']} " in locked


def test_the_service_leads_to_the_api_and_the_gateway_at_home() -> None:
    found = list(yaml.safe_load_all(MANIFESTS.read_text()))
    service = found[3]["spec"]
    assert service["selector"] == {"ray.io/cluster": found[2]["metadata"]["name"], "ray.io/node-type": "head"}
    ports = {port["name"]: port["port"] for port in service["ports"]}
    assert ports == {"api": DEFAULT_API_PORT, "gateway": DEFAULT_GATEWAY_PORT}


def test_the_configuration_in_it_is_one_that_the_platform_takes() -> None:
    found = list(yaml.safe_load_all(MANIFESTS.read_text()))
    config = msgspec.convert(tomllib.loads(found[1]["data"]["config.toml"]), PlatformConfig)
    assert config.etcd is not None
    assert all(":" in endpoint and "/" not in endpoint for endpoint in config.etcd.endpoints)
