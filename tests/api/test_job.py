"""The code of a platform that a job brings stays with the platform."""

import json
from pathlib import Path

import pytest

from actors.cluster.ray_joined import JOB_CONFIG
from api import job


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray has unpacked the job's working directory, with this process in it."""
    found = tmp_path / "session" / "_ray_pkg_1"
    found.mkdir(parents=True)
    (found / "module.py").write_text("")
    monkeypatch.chdir(found)
    monkeypatch.setattr(job, "PROJECT", found)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return found


def code_of(data: Path, monkeypatch: pytest.MonkeyPatch, working_dir: str | None) -> Path:
    runtime_env = {} if working_dir is None else {"working_dir": working_dir}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": runtime_env}))
    data.mkdir(exist_ok=True)
    return Path(job.keeper_command(data, None, 0)[1]["PYTHONPATH"])


def test_what_came_in_a_package_is_copied_once_for_each(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    first = code_of(data, monkeypatch, "gcs://_ray_pkg_1.zip")
    (package / "module.py").unlink()  # as Ray does
    again = code_of(data, monkeypatch, "gcs://_ray_pkg_1.zip")

    assert first == again and first.is_relative_to(data)
    assert (first / "module.py").exists()
    assert code_of(data, monkeypatch, "gcs://_ray_pkg_2.zip") != first
    assert {path.name[0] for path in (data / "code").iterdir()}.isdisjoint({"."}), "no draft is left"


@pytest.mark.parametrize("working_dir", [None, "local:///opt/rayfold"])
def test_what_machines_have_is_used_where_it_is(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, working_dir: str | None
) -> None:
    assert code_of(tmp_path / "data", monkeypatch, working_dir) == package


def test_what_is_installed_is_not_copied_because_the_job_has_a_working_directory(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "PROJECT", Path("/opt/rayfold"))
    assert code_of(tmp_path / "data", monkeypatch, "gcs://_ray_pkg_1.zip") == Path("/opt/rayfold")
