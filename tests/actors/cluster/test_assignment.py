"""Which supervisor gets which partition: every partition once, nobody overloaded, few moves."""

from hypothesis import given
from hypothesis import strategies as st

from actors.cluster.assignment import MOVES_AT_ONCE, assign, next_step

OWNERS = st.lists(st.integers(0, 50).map(lambda n: f"supervisor-{n}"), min_size=1, max_size=12, unique=True)


@given(partitions=st.integers(1, 128), owners=OWNERS)
def test_every_partition_has_one_owner_and_no_owner_more_than_its_share(partitions: int, owners: list[str]) -> None:
    shares = assign(partitions, owners)
    assert sorted(p for share in shares.values() for p in share) == list(range(partitions))
    assert max(len(share) for share in shares.values()) <= -(-partitions // len(owners))


@given(partitions=st.integers(1, 128), owners=OWNERS)
def test_the_order_in_which_owners_are_seen_does_not_matter(partitions: int, owners: list[str]) -> None:
    shares = assign(partitions, owners)
    again = assign(partitions, list(reversed(owners)))
    assert shares == again


def test_nobody_serves_when_nobody_is_there() -> None:
    assert assign(16, []) == {}


def test_when_one_of_four_leaves_most_partitions_stay_where_they_were() -> None:
    before = assign(64, ["a", "b", "c", "d"])
    after = assign(64, ["a", "b", "c"])
    stayed = sum(len(set(before[o]) & set(after[o])) for o in after)
    assert stayed >= 40


@given(partitions=st.integers(1, 64), before=OWNERS, after=OWNERS)
def test_step_by_step_everything_reaches_its_owner_a_few_at_a_time(
    partitions: int, before: list[str], after: list[str]
) -> None:
    """Owners drain: those of before can still be asked. A partition told to move is let go, then claimed."""
    serving = {p: owner for owner, share in assign(partitions, before).items() for p in share}
    given_to = dict(serving)
    target = assign(partitions, after)
    live = {*before, *after}
    for _ in range(2 * partitions + 2):
        given_to = next_step(target=target, given=given_to, serving=serving, live=live)
        let_go = {p for p, owner in serving.items() if given_to[p] != owner}
        assert len(let_go) <= MOVES_AT_ONCE
        assert given_to.keys() == set(range(partitions))
        serving = dict(given_to)
    assert serving == {p: owner for owner, share in target.items() for p in share}


@given(partitions=st.integers(1, 64), owners=OWNERS)
def test_what_nobody_living_serves_is_given_to_its_owner_at_once(partitions: int, owners: list[str]) -> None:
    target = assign(partitions, owners)
    dead = dict.fromkeys(range(partitions), "dead")
    step = next_step(target=target, given=dead, serving={}, live=owners)
    assert step == {p: owner for owner, share in target.items() for p in share}


def test_a_partition_on_its_way_counts_until_it_is_served() -> None:
    target = {"new": [0, 1, 2, 3]}
    serving = dict.fromkeys(range(4), "old")
    step = next_step(target=target, given=serving, serving=serving, live=["old", "new"], at_once=2)
    assert [step[p] for p in range(4)] == ["new", "new", "old", "old"]
    still = {2: "old", 3: "old"}  # let go of by the old owner, not served by the new one yet
    assert next_step(target=target, given=step, serving=still, live=["old", "new"], at_once=2) == step
