"""What builds made: its bill of materials, what differs, and what goes from the disk once nothing refers to it."""

import json
import os
import tarfile
import time
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform

pytestmark = [pytest.mark.system, pytest.mark.servers]

LONG_AGO_SECONDS = 86_400.0


def _blobs(platform: Platform) -> dict[str, Path]:
    return {path.name: path for path in (platform.data / "artifacts").glob("??/*")}


def _digest(platform: Platform, app: str, release: int) -> str:
    found: str = platform.get(platform.component(app, f"releases/{release}"))["artifact"]
    return found


def _manifest(platform: Platform, digest: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(_blobs(platform)[digest].read_text())
    return found


def test_a_tar_file_is_deployed_as_it_is(platform: Platform, tmp_path: Path) -> None:
    apps.write(tmp_path / "shop-1.2" / "web", apps.web("from a file"))
    with tarfile.open(tmp_path / "tarred.tgz", "w:gz") as archive:
        archive.add(tmp_path / "shop-1.2", "shop-1.2")

    platform.cli("deploy", str(tmp_path / "tarred.tgz"), "--subdir", "shop-1.2/web")

    assert platform.serving("tarred")["text"] == "from a file"


def test_pruned_releases_leave_the_disk_and_what_serves_or_is_kept_stays(
    platform: Platform, deploy: Deploy, told: list[str]
) -> None:
    for text in ("one", "two", "three"):
        deploy("pruned", apps.web(text))
    builds = [b["build"] for b in platform.get(platform.component("pruned", "builds"))["items"]]
    bill = platform.get(platform.component("pruned", f"builds/{builds[0]}/sbom"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "default/pruned/web")
    differs = platform.get(platform.component("pruned", f"builds/{builds[-1]}/diff?to={builds[0]}"))
    assert {"artifact", "source.digest"} <= {change["path"] for change in differs["changes"]}
    assert differs["packages"] == []

    digests = {number: _digest(platform, "pruned", number) for number in (1, 2, 3)}
    first = _manifest(platform, digests[1])["app"]["digest"]
    for path in _blobs(platform).values():  # no build runs, and nothing is as young as what one may still refer to
        os.utime(path, (time.time() - LONG_AGO_SECONDS, time.time() - LONG_AGO_SECONDS))
    uploads = [path for path in (platform.data / "uploads").iterdir() if path.is_file()]
    for path in uploads:
        os.utime(path, (time.time() - 3 * LONG_AGO_SECONDS, time.time() - 3 * LONG_AGO_SECONDS))
    answer = platform.http("POST", platform.component("pruned", "retention/prune"), {"keep": 1, "reason": "full"})
    assert answer.status == 200, answer
    assert (answer.json["releases"], answer.json["trouble"]) == ([1], "")
    told.append(f"pruning one release freed {answer.json['freed_bytes']} bytes")

    assert len(uploads) >= 3 and not any(path.exists() for path in uploads), "sources are not built twice"
    left = _blobs(platform)
    assert first not in left and digests[1] not in left
    for kept in (2, 3):
        manifest = _manifest(platform, digests[kept])
        assert {manifest["app"]["digest"], manifest["sbom"]["digest"]} <= left.keys()
    refused = platform.http("POST", platform.component("pruned", "rollbacks"), {"to": 1})
    assert refused.status == 409 and "v1 was pruned" in refused.json["detail"], refused
    back = platform.http("POST", platform.component("pruned", "rollbacks"), {"to": 2})
    assert platform.ended(back.json["operation"])["status"] == "succeeded"
    assert platform.serving("pruned")["text"] == "two"
    platform.ended(platform.http("DELETE", "/v1/teams/default/apps/pruned").json["operation"])
