"""The nemesis run, short: three etcds, several owners, a handful of faults, and not one broken guarantee."""

from pathlib import Path

import pytest

from tests.faults import nemesis

SECONDS = 10.0
SEED = 20_231


@pytest.mark.servers
async def test_a_short_nemesis_run_breaks_no_guarantee(tmp_path: Path) -> None:
    assert await nemesis.run(tmp_path, seed=SEED, seconds=SECONDS, short=True) == []
