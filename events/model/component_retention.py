"""Which releases a component keeps, so that what the others were made of can be removed. Pure.

Knows nothing of disks: an artifact that no release refers to any more is the builders' affair.
"""

from collections.abc import Sequence

from events.model.base import Decision, Event, Meta, Refusal
from events.model.component_commands import PruneReleases, SetRetention
from events.model.component_events import ReleasesPruned, RetentionSet
from events.model.component_parts import ComponentState, ComponentStatus
from events.model.placement import Room

MOST_KEPT = 10_000


def prunable(state: ComponentState, keep: int) -> tuple[int, ...]:
    """The releases beyond the newest `keep` that nothing stands on: none that serves, that is being rolled out, that an
    instance runs, or that a rollback without a number would go back to."""
    needed = {*sorted(state.releases)[-keep:], state.current, state.previous_release()}
    needed |= {instance.release for instance in state.instances.values()}
    if state.operation is not None:
        needed.add(state.operation.release)
    return tuple(number for number in sorted(state.releases) if number not in needed)


def pruned(state: ComponentState, numbers: tuple[int, ...]) -> list[Event]:
    """That `numbers` are gone, with the artifacts that no other release of this component refers to."""
    if not numbers:
        return []
    gone = set(numbers)
    left = {release.artifact.digest for number, release in state.releases.items() if number not in gone}
    digests = {state.releases[number].artifact.digest for number in numbers} - left
    return [ReleasesPruned(releases=numbers, artifacts=tuple(sorted(digests)))]


def keep_within_bounds(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """What follows by itself: with every new release the oldest one beyond the bound goes, with a component all."""
    if state.status is ComponentStatus.DESTROYED:
        return pruned(state, tuple(sorted(state.releases)))  # the name may come again, its releases may not
    if state.status is not ComponentStatus.ACTIVE or state.operation is not None:
        return []
    if len(state.releases) <= state.releases_kept:
        return []
    return pruned(state, prunable(state, state.releases_kept))


def prune(state: ComponentState, command: PruneReleases, meta: Meta) -> Decision:
    """On request; the bound for later stays what it is."""
    if problem := _kept_problem(command.keep):
        return problem
    return pruned(state, prunable(state, command.keep))


def set_retention(state: ComponentState, command: SetRetention, meta: Meta) -> Decision:
    """How many releases are kept from now on."""
    if problem := _kept_problem(command.keep):
        return problem
    return [] if command.keep == state.releases_kept else [RetentionSet(keep=command.keep)]


def not_there(state: ComponentState, number: int) -> Refusal:
    """Why there is no release `number` to go back to."""
    if state.born_after < number <= state.last_release:
        kept = ", ".join(f"v{n}" for n in sorted(state.releases)[-10:])
        message = f"release v{number} was pruned: its artifact is gone, and so it cannot run again; kept are {kept}"
        hint = "deploy its commit again (rayfold deploy --ref COMMIT), or choose one of these: rayfold releases"
        return Refusal(code="conflict", message=message, hint=hint)
    return Refusal(code="not_found", message=f"no release v{number}", hint="rayfold releases")


def _kept_problem(keep: int) -> Refusal | None:
    if 1 <= keep <= MOST_KEPT:
        return None
    message = f"expected a number of releases to keep from 1 to {MOST_KEPT}, found {keep}"
    return Refusal(code="invalid", message=message, hint="for example: rayfold builds prune --keep 10")
