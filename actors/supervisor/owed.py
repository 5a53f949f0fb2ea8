"""What a stream's state owes the world: a timer for its next deadline, and each effect, tried until it is owed no more.

Knows when; not what an effect does, nor what follows from a deadline: whoever made it does.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from actors.cluster.tracing import span
from actors.supervisor.entity import Entity
from events.model.component_progress import Effect

log = structlog.get_logger("supervisor")

RETRY_FIRST_SECONDS = 0.2
RETRY_MAX_SECONDS = 5.0
TIMER_MAX_SECONDS = 300.0


class Owed:
    """Timers and effects of the entities of one partition. Used from one event loop only."""

    def __init__(
        self,
        *,
        run: Callable[[Entity, Effect], Awaitable[None]],
        due: Callable[[Entity], None],
        serving: Callable[[Entity], bool],
        clock: Callable[[], int],
    ) -> None:
        """`run` carries an effect out, `due` is told of a deadline. `serving`: whether anything may be done for an
        entity now. `clock`: microseconds UTC."""
        self._run = run
        self._due = due
        self._serving = serving
        self._clock = clock

    def set_timer(self, entity: Entity) -> None:
        """For the entity's next deadline, in the place of the one before."""
        if entity.timer is not None:
            entity.timer.cancel()
            entity.timer = None
        at = self._clock()
        deadline = entity.aggregate.next_deadline(entity.state, at)
        if deadline is not None:
            # Never for long: the timer counts seconds of its own, and the clock may be set meanwhile.
            delay = min(max(0.0, (deadline - at) / 1e6) + 0.001, TIMER_MAX_SECONDS)
            entity.timer = asyncio.get_running_loop().call_later(delay, self._due, entity)

    def reconcile(self, entity: Entity) -> None:
        """Run what is owed, and nothing else."""
        if entity.pending or not self._serving(entity):
            return
        owed = set(entity.effects())
        for effect in [e for e in entity.tasks if e not in owed]:
            entity.tasks.pop(effect).cancel()
        for effect in owed - entity.tasks.keys():
            entity.tasks[effect] = asyncio.get_running_loop().create_task(self._keep_running(entity, effect))

    async def _keep_running(self, entity: Entity, effect: Effect) -> None:
        """Run `effect` until the state no longer owes it. Cancelled by `reconcile` when that is so."""
        wait = RETRY_FIRST_SECONDS
        while self._serving(entity) and entity.tasks.get(effect) is asyncio.current_task():
            if entity.pending:
                await entity.changed.wait()  # never on the word of events that may not become durable
                continue
            try:
                with span(f"effect {effect.kind}", entity.traceparent, stream=entity.stream, key=effect.key):
                    await self._run(entity, effect)
            except Exception as error:
                log.warning("effect failed, will be tried again", stream=entity.stream, effect=effect.kind,
                            key=effect.key, error=f"{type(error).__name__}: {error}")  # fmt: skip
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX_SECONDS)
