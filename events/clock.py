"""The wall clock in the log's unit. Must not be asked by any aggregate: time comes in with a command."""

import time


def now_micros() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000
