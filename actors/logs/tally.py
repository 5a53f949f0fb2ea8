"""Counts of a stream's lines between two numbers or times: from the index where whole blocks fall in, else by reading.

Blocking and without state, as the reader. Knows nothing of what the counts are for.
"""

from actors.logs.filter import LineFilter
from actors.logs.measure import Counts, count
from actors.logs.parts import stored_parts
from actors.logs.reader import SCAN_BYTES, forward
from actors.logs.sealed import Entry
from actors.logs.view import StreamView

_LINES = 1_000_000
"""More than a part can hold: a part is counted whole."""


def tally(view: StreamView, start: int, *, stop: int = 0, since: int = 0, until: int = 0) -> tuple[Counts, int, str]:
    """Counts of the numbers from `start` on below `stop` that fall between the times, as far as one call goes.

    Returns them with the number to go on at (`stop` or beyond: all is counted), and the index of a segment whose block
    file must be fetched first, "" for none.
    """
    stop = min(stop or view.next_number, view.next_number)
    counts, cursor, spent = Counts(), max(start, view.first_number), 0
    flt = LineFilter(since=since, until=until)
    for first, following, cost, entry in stored_parts(view):
        if following <= cursor:
            continue
        if first >= stop:
            break
        if entry is not None and _whole(entry, cursor, stop, since, until):
            counts.add(entry.counts)
            cursor = entry.next
            continue
        if spent >= SCAN_BYTES:
            return counts, cursor, ""
        spent += cost
        upto = min(following, stop)
        cursor = max(cursor, first)
        while cursor < upto:
            scan = forward(view, cursor, limit=_LINES, flt=flt, stop=upto, budget=1 << 40)
            if scan.wanted:
                return counts, cursor, scan.wanted
            counts.add(count(scan.lines))
            cursor = upto if scan.done else scan.cursor
    return counts, max(cursor, stop), ""


def _whole(entry: Entry, cursor: int, stop: int, since: int, until: int) -> bool:
    """Whether the block's own counts are what is asked of it."""
    timely = entry.t_min >= since and not (until and entry.t_max >= until)
    return timely and entry.first >= cursor and entry.next <= stop
