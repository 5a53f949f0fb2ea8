"""Pool: how many actors of one kind there should be, as people and the autoscaler decided it.

Knows nothing of which pools there are, of what their actors do, nor of how many run: the reconciler brings that about.
"""

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem

LARGEST = 256  # actors of one pool; each is a process of some 100 MB


class PoolState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`size` 0: nobody has decided, it has the size it was started with. `most` 0: it is not scaled automatically.

    `scaled_at`: microseconds UTC; `before`: the size until then, where it was known.
    """

    name: str = ""
    size: int = 0
    least: int = 0
    most: int = 0
    scaled_at: int = 0
    before: int = 0
    why: str = ""
    by: str = ""

    @property
    def automatic(self) -> bool:
        return self.most > 0


class PoolScaled(Event, frozen=True):
    """`automatic`: by the autoscaler, within its bounds; by hand it ends automatic scaling."""

    name: str
    size: int
    before: int = 0
    automatic: bool = False
    by: str = ""
    why: str = ""


class PoolAutoscaleSet(Event, frozen=True):
    """From now on its size follows its work, between `least` and `most`."""

    name: str
    least: int
    most: int
    by: str = ""
    why: str = ""


class ScalePool(Command, frozen=True):
    """By hand."""

    name: str
    size: int


class AutoscalePool(Command, frozen=True):
    name: str
    least: int
    most: int


class FollowWork(Command, frozen=True):
    """The autoscaler's: `before` is the size it found."""

    size: int
    before: int


PoolEvent = PoolScaled | PoolAutoscaleSet
PoolCommand = ScalePool | AutoscalePool | FollowWork


def pool_stream(name: str) -> str:
    """The stream of a pool's decisions."""
    return f"pool/{name}"


def apply(state: PoolState, event: PoolEvent, at: int) -> PoolState:
    match event:
        case PoolScaled():
            return PoolState(
                name=event.name,
                size=event.size,
                least=state.least if event.automatic else 0,
                most=state.most if event.automatic else 0,
                scaled_at=at,
                before=event.before,
                why=event.why,
                by=event.by,
            )
        case PoolAutoscaleSet():
            changed = msgspec.structs.replace(state, name=event.name, least=event.least, most=event.most)
            return msgspec.structs.replace(changed, why=event.why, by=event.by)


def decide(state: PoolState, command: PoolCommand, meta: Meta) -> Decision:
    match command:
        case ScalePool(name=name, size=size):
            problem = name_problem("a pool name", name) or _size_problem(size)
            if problem is not None:
                return problem
            if state.size == size and not state.automatic:
                return []
            return [PoolScaled(name=name, size=size, before=state.size, by=meta.actor, why=meta.reason)]
        case AutoscalePool(name=name, least=least, most=most):
            problem = name_problem("a pool name", name) or _size_problem(least) or _size_problem(most)
            if problem is None and least > most:
                problem = Refusal(code="invalid", message=f"expected MIN at most MAX, found {least}..{most}")
            if problem is not None:
                return problem
            if (state.least, state.most) == (least, most):
                return []
            return [PoolAutoscaleSet(name=name, least=least, most=most, by=meta.actor, why=meta.reason)]
        case FollowWork(size=size, before=before):
            # What a person has decided meanwhile stands.
            if not state.automatic or not state.least <= size <= state.most or size == state.size:
                return []
            return [
                PoolScaled(
                    name=state.name, size=size, before=before, automatic=True, by=meta.actor, why=meta.reason
                )
            ]  # fmt: skip
    raise TypeError(f"not a pool command: {type(command).__name__}")


def _size_problem(size: int) -> Refusal | None:
    if 1 <= size <= LARGEST:
        return None
    return Refusal(code="invalid", message=f"expected a size from 1 to {LARGEST}, found {size}")
