"""Reading the names of streams that people type. Must not know the log: whether one exists is found out by reading."""

import re

from events.model.base import service_id_of
from events.model.registry import AGGREGATES
from events.replay.errors import NoSuchStream

_NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")


def resolve_stream(text: str, *, team: str = "default") -> str:
    """The stream that `text` names: one as it stands ("component/0123…", "team/default"), or a component by its names.

    A component: "app/component" in `team`, or "team/app/component". Where a text could be both, as in "app/web", it is
    a stream when what follows the kind could be that kind's id, else a component. Raises NoSuchStream.
    """
    kind, _, ident = text.partition("/")
    if kind in AGGREGATES and _could_be_id(kind, ident):
        return text
    names = text.split("/")
    if len(names) == 2:
        names = [team, *names]
    if len(names) != 3 or not all(_NAME.match(name) for name in names):
        kinds = ", ".join(sorted(AGGREGATES))
        raise NoSuchStream(
            f"expected app/component, team/app/component or KIND/ID (kinds: {kinds}), found {text[:80]!r}"
        )
    return f"component/{service_id_of(*names)}"


def _could_be_id(kind: str, ident: str) -> bool:
    match kind:
        case "component":
            return re.fullmatch(r"[0-9a-f]{16}", ident) is not None
        case "build":
            return re.fullmatch(r"[0-9a-f]{16}-.{1,128}", ident) is not None
        case "app":
            return ident.count(".") == 1
        case "route":
            return "/" in ident
        case "parked":
            kind, _, parked = ident.partition("/")
            return kind in AGGREGATES and _could_be_id(kind, parked)
    return bool(ident) and "/" not in ident
