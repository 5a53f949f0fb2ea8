"""The nemesis run, short: three etcds, several owners, a handful of faults, and not one broken guarantee."""

from pathlib import Path

import pytest

from tests.faults import nemesis
from tests.faults.nemesis_faults import MEMBER_FAULTS

SECONDS = 10.0
SEED = 20_231
SHORT = ("kill member", "pause member", "cut leader", "move leader", "compact")


@pytest.mark.servers
async def test_a_short_nemesis_run_breaks_no_guarantee(tmp_path: Path) -> None:
    faults = {name: MEMBER_FAULTS[name] for name in SHORT}
    assert await nemesis.run(tmp_path, seed=SEED, seconds=SECONDS, member_faults=faults, longest=1.5) == []
