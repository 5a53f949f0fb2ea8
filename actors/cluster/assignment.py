"""Who should own which partition, and which may move now. Pure; knows nothing of what an owner does with one."""

from collections.abc import Collection, Mapping

from actors.cluster.rendezvous import ranked

MOVES_AT_ONCE = 2  # partitions on their way between living owners; a partition is not served while it moves


def assign(partitions: int, owners: list[str]) -> dict[str, list[int]]:
    """Rendezvous hashing with bounded load: each partition goes to the owner that hashes highest and has room.

    No owner gets more than ceil(partitions / owners); when the owners change, few partitions move.
    """
    shares: dict[str, list[int]] = {owner: [] for owner in owners}
    if not owners:
        return shares
    most = -(-partitions // len(owners))
    for partition in range(partitions):
        owner = next(o for o in ranked(str(partition), owners) if len(shares[o]) < most)
        shares[owner].append(partition)
    return shares


def next_step(
    *,
    target: Mapping[str, Collection[int]],
    given: Mapping[int, str],
    serving: Mapping[int, str],
    live: Collection[str],
    at_once: int = MOVES_AT_ONCE,
) -> dict[int, str]:
    """Whom each partition is given to now, on the way to `target`.

    `given`: as decided before; `serving`: who said that it serves it; `live`: who can be asked, draining owners too.
    What nobody living has goes to its target at once. What somebody serves moves only while fewer than `at_once`
    partitions are on their way, so that most are served at any moment.
    """
    wanted = {partition: owner for owner, share in target.items() for partition in share}
    step: dict[int, str] = {}
    moving = 0
    waiting: list[int] = []
    for partition, owner in sorted(wanted.items()):
        holder = serving.get(partition) or given.get(partition)
        if holder is None or holder == owner or holder not in live or given.get(partition) == owner:
            step[partition] = owner
            moving += serving.get(partition) != owner
        else:
            waiting.append(partition)
            step[partition] = holder
    for partition in waiting[: max(0, at_once - moving)]:
        step[partition] = wanted[partition]
    return step
