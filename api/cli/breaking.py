"""`rayfold replay --pdb`: stops in the aggregate's own `apply`, event by event, with the state and the event at hand.

The fold runs in this process, on the history that was exported; must not be loaded unless asked for.
"""

import pdb
from collections.abc import Sequence

from events.log.records import StoredEvent
from events.model.registry import aggregate_of, decode_event, initial_state


class _Debugger(pdb.Pdb):
    """Remembers that the user asked to leave, which `runcall` does not tell."""

    left = False

    def set_quit(self) -> None:
        self.left = True
        super().set_quit()


def debug(stream: str, events: Sequence[StoredEvent], first: int, last: int, *, heading: str) -> None:
    """Fold up to version `first` - 1, then stop at the first line of `apply` for each event up to `last`.

    `c` goes on to the next event, `q` ends it; `heading` is printed before each, with its version and type.
    """
    aggregate = aggregate_of(stream)
    state: object = initial_state(stream)
    debugger = _Debugger()
    for stored in events[:last]:
        record = stored.record
        event = decode_event(record)
        if record.version < first:
            state = aggregate.apply(state, event, record.at)
            continue
        debugger.message(f"{heading} v{record.version} {record.type}: s steps, c goes on to the next event, q ends")
        state = debugger.runcall(aggregate.apply, state, event, record.at)
        if debugger.left:
            return
