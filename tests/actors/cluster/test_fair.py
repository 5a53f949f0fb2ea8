"""What is held at once is bounded, and nobody who floods keeps others out."""

from hypothesis import given
from hypothesis import strategies as st

from actors.cluster.fair import FairGate

THINGS, SIZE = 120, 100_000
ENTRIES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4000), st.booleans()), max_size=400)


@given(ENTRIES)
def test_it_never_holds_more_than_it_may_and_forgets_nothing(entries: list[tuple[str, int, bool]]) -> None:
    gate = FairGate(things=THINGS, size=SIZE)
    held: list[tuple[str, int]] = []
    for team, size, leaves in entries:
        if leaves and held:
            gate.leave(*held.pop(0))
        elif gate.enter(team, size):
            held.append((team, size))
        assert gate.things == len(held) <= THINGS
        assert gate.size == sum(size for _, size in held) <= SIZE
    for entry in held:
        gate.leave(*entry)
    assert (gate.things, gate.size) == (0, 0)


@given(st.integers(1, 12))
def test_teams_that_flood_get_equal_shares_and_one_that_comes_new_finds_room(teams: int) -> None:
    gate = FairGate(things=THINGS, size=SIZE)
    held = {f"team-{n}": 0 for n in range(teams)}
    for _ in range(THINGS):
        for team in held:
            held[team] += gate.enter(team, 10)
    assert max(held.values()) - min(held.values()) <= 1
    assert min(held.values()) >= THINGS // (teams + 1) - 1
    assert gate.enter("new", 10)


def test_the_platforms_own_work_may_take_what_teams_may_not() -> None:
    gate = FairGate(things=10, size=SIZE)
    assert [gate.enter("a", 1) for _ in range(8)].count(True) == 5
    assert [gate.enter("", 1) for _ in range(8)].count(True) == 5


def test_one_thing_that_is_larger_than_all_there_may_be_goes_alone() -> None:
    gate = FairGate(things=10, size=100)
    assert gate.enter("a", 1000)
    assert not gate.enter("b", 1)
    gate.leave("a", 1000)
    assert gate.enter("b", 1)
