"""Every read model, in one tuple: what a projector folds unless told otherwise. Must not know how they are folded."""

from projections import (
    apps,
    builds,
    components,
    crons,
    instances,
    nodes,
    operations,
    releases,
    rollouts,
    routes,
    teams,
    templates,
)
from projections.errors import UnknownProjection
from projections.model import Projection

ALL: tuple[Projection, ...] = (
    teams.PROJECTION,
    apps.PROJECTION,
    components.PROJECTION,
    releases.PROJECTION,
    builds.PROJECTION,
    rollouts.PROJECTION,
    instances.PROJECTION,
    routes.PROJECTION,
    operations.PROJECTION,
    crons.PROJECTION,
    templates.PROJECTION,
    nodes.PROJECTION,
)


def named(name: str) -> tuple[Projection, ...]:
    """The read model called `name`, or every one for "all"; raises UnknownProjection."""
    found = ALL if name == "all" else tuple(p for p in ALL if p.name == name)
    if not found:
        known = ", ".join(p.name for p in ALL)
        raise UnknownProjection(f"expected one of all, {known}; found {name[:60]!r}")
    return found
