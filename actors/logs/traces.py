"""Stack traces become one line: finds those of Python, Java and Go among a shim's records and marks them as joined.

Pure. Nearly all output holds none, which a few searches for fixed bytes tell; only then are records looked at.
"""

import re

_SIGNS = (b"Traceback (most recent call last):", b"\tat ", b"panic: ", b"goroutine ")
_RECORD = re.compile(rb"(\d{1,18} ([oe]) )F ([^\n]*)\n")
_JOINED = re.compile(rb"\d{1,18} [oe] J ")
_MOST_BYTES = 48 * 1024
"""Of one joined line; what is longer goes on as lines of its own."""

_PYTHON_START = b"Traceback (most recent call last):"
_PYTHON_LINK = (b"During handling of the above exception", b"The above exception was the direct cause")
_JAVA_MORE = re.compile(rb"\s+at |\s*\.\.\. \d+ (more|common frames)|Caused by: |\s+Suppressed: ")
_GO_START = re.compile(rb"panic: |fatal error: |goroutine \d+ \[")
_GO_MORE = re.compile(rb"goroutine \d+ \[|\t|\s*\Z|created by |[\w./*()\[\]{}-]+\(.*\)\s*\Z|exit status |\[signal ")


def has_sign(records: bytes) -> bool:
    """Whether there may be a trace in whole records; cheap."""
    return any(sign in records for sign in _SIGNS)


def join(records: bytes) -> bytes:
    """Whole records with the traces among them marked; as many bytes as before."""
    if not has_sign(records):
        return records
    rows = records.splitlines(keepends=True) if b"\r" not in records else _lines(records)
    follower = _Follower()
    size = 0
    for place in range(1, len(rows)):
        last, here = _RECORD.fullmatch(rows[place - 1]), _RECORD.fullmatch(rows[place])
        goes_on = last is not None and here is not None and last[2] == here[2] and follower.goes_on(last[3], here[3])
        size = size + len(rows[place]) if goes_on else 0
        if goes_on and last is not None and size < _MOST_BYTES:
            rows[place - 1] = last[1] + b"J " + last[3] + b"\n"
        elif not goes_on:
            follower = _Follower()
    return b"".join(rows)


def unfinished(records: bytes) -> int:
    """Bytes at the end of whole records that a trace may go on after; 0 where what follows is a line of its own."""
    if not has_sign(records):
        return 0
    joined = join(records)
    rows = _lines(joined)
    begin = len(rows) - 1
    while begin > 0 and _JOINED.match(rows[begin - 1]):
        begin -= 1
    last = _RECORD.fullmatch(rows[-1])
    is_open = begin < len(rows) - 1 or (last is not None and _starts(last[3]))
    size = sum(map(len, rows[begin:]))
    return size if is_open and size < _MOST_BYTES else 0


def _lines(records: bytes) -> list[bytes]:
    return [row + b"\n" for row in records[:-1].split(b"\n")]


def _starts(text: bytes) -> bool:
    return text.startswith(_PYTHON_START) or _GO_START.match(text) is not None


class _Follower:
    """Which language's trace is under way, and whether it has come to its last line."""

    def __init__(self) -> None:
        self._kind = ""
        self._ended = False
        self._linked = False

    def goes_on(self, last: bytes, here: bytes) -> bool:
        """Whether `here` belongs to what `last` belongs to."""
        if not self._kind:
            if last.startswith(_PYTHON_START):
                self._kind = "python"
            elif _GO_START.match(last):
                self._kind = "go"
            elif _JAVA_MORE.match(here):
                self._kind = "java"
            else:
                return False
        return {"python": self._python, "java": self._java, "go": self._go}[self._kind](here)

    def _python(self, here: bytes) -> bool:
        if self._ended:
            # A second trace belongs to the first where Python says what the one has to do with the other.
            if here.startswith(_PYTHON_START):
                self._ended = False
                return self._linked
            self._linked = here.startswith(_PYTHON_LINK) or (self._linked and not here)
            return not here or self._linked
        self._ended = not here.startswith((b" ", b"\t")) and not here.startswith(_PYTHON_START)
        return True

    @staticmethod
    def _java(here: bytes) -> bool:
        return _JAVA_MORE.match(here) is not None

    @staticmethod
    def _go(here: bytes) -> bool:
        return _GO_MORE.match(here) is not None
