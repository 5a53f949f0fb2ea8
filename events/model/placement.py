"""Which node an instance is given to: what a component asks of nodes, what nodes have, and the rule between them.

Pure; knows nothing of releases or of how anybody learns what a node has.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from events.model.base import Refusal

_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")  # as Ray and Kubernetes have them
_LABEL_VALUE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})?")


class Room(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A live node as its agent reported it last. `free_bytes`: memory that no process has and no instance was promised.

    `leaving`: it is being drained, and what runs there is to run elsewhere.
    """

    name: str
    free_bytes: int = 0
    labels: dict[str, str] = {}
    leaving: bool = False


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a component asks of nodes.

    `require`: labels that a node must have. `spread`: the label over whose values instances are spread, before they are
    spread over nodes; empty: over nodes only. `stateful`: an instance never runs twice at a time, so it is stopped
    before another takes its place, and one on a node that fell silent is replaced only once that node was removed.
    """

    require: dict[str, str] = {}
    spread: str = ""
    stateful: bool = False


def label_problem(key: str, value: str) -> Refusal | None:
    """None when `key=value` may be a node's label; else what is wrong with it."""
    if _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value):
        return None
    message = f"expected a label like zone=a, found {key[:70]!r}={value[:70]!r}"
    hint = "letters, digits, '.', '_', '-' and in names '/'; at most 63 characters each, a letter or digit first"
    return Refusal(code="invalid", message=message, hint=hint)


def choose(
    rooms: Sequence[Room],
    placement: Placement,
    memory_bytes: int,
    taken: Mapping[str, int],
    promised: Mapping[str, int],
) -> str:
    """The node for one more instance that may take `memory_bytes`; empty when none has the required labels.

    `taken`: how many instances of the component each node has; `promised`: bytes promised there by this same decision.
    Nodes with room come first: memory limits are seldom reached, so that a full node is better than none. Then whatever
    spreads the component most, then the most free memory.
    """
    fit = [room for room in rooms if not room.leaving and placement.require.items() <= room.labels.items()]
    domains: dict[str, int] = {}
    for room in rooms:
        domain = room.labels.get(placement.spread, "")
        domains[domain] = domains.get(domain, 0) + taken.get(room.name, 0)

    def rank(room: Room) -> tuple[bool, int, int, int, str]:
        free = room.free_bytes - promised.get(room.name, 0)
        in_domain = domains[room.labels.get(placement.spread, "")] if placement.spread else 0
        return free < memory_bytes, in_domain, taken.get(room.name, 0), -free, room.name

    return min(fit, key=rank).name if fit else ""


def apart_from_memory(rooms: Sequence[Room]) -> dict[str, Room]:
    """Nodes by name, to tell whether they are others: how much memory is free changes all the time."""
    return {room.name: msgspec.structs.replace(room, free_bytes=0) for room in rooms}
