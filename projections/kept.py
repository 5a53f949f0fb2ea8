"""Rows that stay in memory from one transaction to the next, so that a stream that is busy is not read again each time.

Must not know what a row is about. A group is every row of a table that has one value in its first key column. It is
taken out when a transaction asks for it, and left again after the commit: what is rolled back is never here. Nobody
else may have written the rows meanwhile; a projector knows by its checkpoints, and clears this when they moved.
"""

from collections.abc import Sequence

from sqlalchemy import Table

from projections.schema import Row, SqlValue

GROUPS_MOST = 3000  # a component's take about 4 KB


class KeptRows:
    """At most `most` groups; those that were left longest ago go first."""

    def __init__(self, most: int = GROUPS_MOST) -> None:
        self._most = most
        self._groups: dict[tuple[Table, SqlValue], Sequence[Row]] = {}

    def take(self, table: Table, value: SqlValue) -> Sequence[Row] | None:
        """The rows of a group, perhaps none, which are no longer kept; None when it is not known here."""
        return self._groups.pop((table, value), None)

    def leave(self, table: Table, value: SqlValue, rows: Sequence[Row]) -> None:
        """Keep a group as it was committed."""
        self._groups[table, value] = rows
        if len(self._groups) > self._most:
            del self._groups[next(iter(self._groups))]

    def clear(self) -> None:
        """Forget every group."""
        self._groups.clear()
