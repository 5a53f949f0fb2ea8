"""cluster.yaml is what `ray up` accepts: it passes Ray's own validation."""

from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).resolve().parents[3] / "cluster.yaml"


def test_ray_accepts_the_cluster_file() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    validate_config(prepare_config(config))
    assert config["cluster_name"] == "rayfold"
