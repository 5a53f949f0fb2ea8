"""How long each step of a build may take, from the build's own limit, the operator's and the source's word.

Numbers only; it must not know what a step does.
"""

from collections.abc import Mapping

STEPS = ("source", "dependencies", "build", "publish")
"""The steps that have a time-out of their own; detection only reads files that are there."""

RELEASE = "release"
"""The release command, which has its time-out from the same places; it runs when the build is over, and has no share
of the build's time."""

_SHARES = {"source": 1 / 3, "dependencies": 2 / 3, "build": 2 / 3, "publish": 1 / 3}
"""Of the whole build's time, where nobody says otherwise: a step that hangs leaves time to say so, and no step alone
can use up what the others need."""

LONGEST_SECONDS = 24 * 3600


def step_seconds(
    step: str, *, whole: float, operator: Mapping[str, float], source: Mapping[str, float]
) -> float | None:
    """The limit of `step` in seconds; None where it has none. `source`, what rayfold.toml says, counts most."""
    if step not in _SHARES:
        return None
    said = source.get(step) or operator.get(step)
    return min(said, whole) if said else _SHARES[step] * whole
