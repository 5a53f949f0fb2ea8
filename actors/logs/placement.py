"""Which member of the pool a stream belongs to: rendezvous hashing with bounded load, in bytes a second.

Pure: members and loads come in, names come out. Knows nothing of how members find each other or who claimed what.
"""

from collections.abc import Mapping

from actors.cluster.rendezvous import ranked

BOUND = 1.25
"""A member takes no more than this times the mean load; the constant that "Consistent Hashing with Bounded Loads"
(Mirrokni, Thorup, Zadimoghaddam 2016) calls 1 + ε, here as that paper's users have it."""
FLOOR = 1_000_000.0
"""Bytes a second below which nobody is called loaded: moving a stream costs more than it brings."""


def capacity(loads: Mapping[str, float]) -> float:
    """Bytes a second that one member may carry."""
    return max(BOUND * sum(loads.values()) / len(loads), FLOOR) if loads else FLOOR


def place(stream: str, loads: Mapping[str, float]) -> str:
    """The first in the stream's ranking that has room. Every member of `loads` is alive, and there is one."""
    most = capacity(loads)
    order = ranked(stream, loads)
    return next((member for member in order if loads[member] <= most), order[0])


def to_give(me: str, rates: Mapping[str, float], loads: Mapping[str, float], joined: frozenset[str]) -> dict[str, str]:
    """Which of my streams (`rates`, bytes a second each) to leave to whom.

    To one that has just joined: those that it comes first for. When I carry more than I may: the first that fit
    elsewhere, the busiest first, until I do not.
    """
    given = {}
    for stream in rates:
        first = ranked(stream, loads)[0]
        if first in joined and first != me:
            given[stream] = first
    left = dict(loads)
    left[me] = loads[me] - sum(rates[stream] for stream in given)
    most = capacity(loads)
    for stream in sorted(rates.keys() - given.keys(), key=lambda name: (-rates[name], name)):
        if left[me] <= most:
            break
        rate = rates[stream]
        fitting = [member for member in ranked(stream, loads) if member != me and left[member] + rate <= most]
        if fitting and rate:
            given[stream] = fitting[0]
            left[me] -= rate
            left[fitting[0]] += rate
    return given
