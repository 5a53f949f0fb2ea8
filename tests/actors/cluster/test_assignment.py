"""Which supervisor gets which partition: every partition once, nobody overloaded, few moves."""

from hypothesis import given
from hypothesis import strategies as st

from actors.cluster.reconciler import assign

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
