"""How often a process of the platform looks for garbage cycles: seldom, for its work leaves next to none."""

import gc

_COLLECT_AFTER = (20_000, 20, 50)
"""Objects, and collections of the generation below: with Python's own 700, an API server spent a quarter of its time in
looking for garbage cycles, and a request leaves none."""


def collect_seldom() -> None:
    """Once all is open: modules, classes and connections stay for as long as the process does, and need not be looked
    through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
