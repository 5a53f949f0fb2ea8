"""A Thespian actor in a process of its own that keeps the same counters in a dict: no log, no HTTP; lost when it dies.

Must know nothing of the platform.
"""

import time
from typing import Any

from benchmarks.harness import Case, case

NAME = "Thespian actor (multiprocTCPBase), one command a message"
ENTITIES = 64
ANSWER_SECONDS = 10.0

try:
    from thespian.actors import Actor
except ImportError:
    Actor = object


class Counters(Actor):  # type: ignore[misc, unused-ignore]
    """Answers each command with how many counters there are."""

    def receiveMessage(self, message: Any, sender: Any) -> None:
        if not isinstance(message, tuple):
            return
        if not hasattr(self, "states"):
            self.states: dict[str, str] = {}
        entity, value = message
        self.states[entity] = value
        self.send(sender, len(self.states))


def run(seconds: float) -> list[Case]:
    """One asks and waits, as the library's `ask` does."""
    try:
        from thespian.actors import ActorSystem
    except ImportError:
        return [{"case": NAME, "absent": "the Python package thespian is not installed"}]
    system = ActorSystem("multiprocTCPBase")
    try:
        actor = system.createActor(Counters)
        system.ask(actor, ("warm", "up"), ANSWER_SECONDS)
        samples: list[float] = []
        began = time.perf_counter()
        number = 0
        while (now := time.perf_counter()) - began < seconds:
            system.ask(actor, (f"c{number % ENTITIES}", str(number)), ANSWER_SECONDS)
            samples.append(time.perf_counter() - now)
            number += 1
        took = time.perf_counter() - began
    finally:
        system.shutdown()
    return [case(NAME, "command", samples, seconds=took, durability="none", transport="TCP between processes, no HTTP")]
