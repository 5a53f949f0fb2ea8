"""Worlds of owners, clients, followers and troubles: whatever a seed brings, the checker finds nothing to say.

A seed that fails names the command that shows what happened in it.
"""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.__main__ import reproduce
from tests.simulation.scenario import Result, run_seed

PROJECT = Path(__file__).resolve().parents[2]
SEEDS = 200
BLOCK = 25


@functools.cache
def _world(seed: int) -> Result:
    return run_seed(seed)


def _run(seed: int) -> None:
    result = _world(seed)
    shown = "\n".join(result.violations[:5])
    assert not result.violations, f"seed {seed}:\n{shown}\nsee what happened: {reproduce(seed)}"


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_a_guarantee(first: int) -> None:
    for seed in range(first, first + BLOCK):
        _run(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(SEEDS, 5000, 400))
def test_no_seed_of_many_breaks_a_guarantee(first: int) -> None:
    for seed in range(first, first + 400):
        _run(seed)


def test_a_seed_is_one_history_byte_for_byte() -> None:
    """In two Python processes whose hashes are salted differently."""
    traces = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "11"],
            capture_output=True,
            check=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONHASHSEED": salt},
        ).stdout
        for salt in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert traces[0].count(b"\n") > 100


def test_two_seeds_are_two_histories() -> None:
    assert run_seed(1).digest != run_seed(2).digest


def test_worlds_are_worth_running() -> None:
    """Events, claims, snapshots, segments, refusals: a world where nothing happens proves nothing."""
    results = [_world(seed) for seed in range(40)]
    assert sum(result.events for result in results) > 1000
    assert sum(result.claims for result in results) > 150
    assert sum(result.claims > 5 for result in results) > 10
    assert sum(result.snapshots for result in results) > 50
    assert sum(result.segments for result in results) > 50
    assert any(result.refused for result in results), "and nothing was left undone: a world that does not end fails"


UNDER_CONTROL = {"random.uniform", "uuid.uuid4", "time.time_ns", "os.getpid", "socket.gethostname"}
"""What a world replaces by its own."""
ELSEWHERE = {"secrets.token_hex"}
"""Names of temporary files, in the directory that a world's blobs are not kept in."""


def _is_chance(name: str) -> bool:
    module, _, attribute = name.partition(".")
    if module in ("time", "random", "uuid", "secrets"):
        return True
    return name in {"os.urandom", "os.getpid", "socket.gethostname"} or (
        module == "datetime" and attribute in ("now", "utcnow", "today")
    )


def _chance_in(path: Path) -> set[str]:
    """Names of modules that give time or chance, as this file uses them."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in used if _is_chance(name)}


def test_all_chance_in_the_code_under_test_is_the_worlds() -> None:
    """A source of time or chance that a world does not give would make its seed a different history each time."""
    loaded = (
        "import sys, tests.simulation.scenario\n"
        "files = sorted(m.__file__ for n, m in sys.modules.items() if n.startswith('events.') and m.__file__)\n"
        "print(*files, sep='\\n')"
    )
    listed = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout.splitlines()
    assert len(listed) > 15
    used = {path: _chance_in(Path(path)) - UNDER_CONTROL - ELSEWHERE for path in listed}
    assert {path: names for path, names in used.items() if names} == {}
