"""The fingerprint of the fold is one per code, not one per process."""

import os
import re
import subprocess
import sys
from pathlib import Path

from events.model.fold_fingerprint import fold_fingerprint

ROOT = Path(__file__).parents[3]


def test_processes_with_other_hash_seeds_directories_and_time_zones_agree(tmp_path: Path) -> None:
    program = "from events.model.fold_fingerprint import fold_fingerprint; print(fold_fingerprint())"
    for seed, zone in (("1", "UTC"), ("77", "Asia/Tokyo")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": str(ROOT)}
        told = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == fold_fingerprint()


def test_any_change_to_the_model_changes_it(tmp_path: Path) -> None:
    copy = tmp_path / "events" / "model"
    source = ROOT / "events"
    program = "from events.model.fold_fingerprint import fold_fingerprint; print(fold_fingerprint())"
    for path in source.rglob("*.py"):
        target = tmp_path / "events" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    fold = copy / "component_instance_fold.py"
    changed = fold.read_text().replace("draft.started_instances += 1", "draft.started_instances += 2")
    assert changed != fold.read_text()
    fold.write_text(changed)
    told = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{64}\n", told.stdout) and told.stdout.strip() != fold_fingerprint()
