"""Lists by cursor: the last row's place in the order, so that rows that come and go between two pages shift nothing.

Must not know any read model. A cursor is opaque to those who hold it, and carries no secret.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Select, Table, and_, or_, select
from sqlalchemy.engine import RowMapping

from projections.errors import BadCursor
from projections.schema import SqlValue
from projections.views import Page

S = TypeVar("S", bound=msgspec.Struct)

LIMIT_DEFAULT = 50
LIMIT_MOST = 200


class Order(msgspec.Struct, frozen=True):
    """One column of a list's order."""

    column: str
    newest_first: bool = False


def page(
    connection: Connection,
    table: Table,
    view: type[S],
    condition: ColumnElement[bool],
    order: Sequence[Order],
    cursor: str,
    limit: int,
) -> Page[S]:
    """The rows of `table` under `condition` after `cursor`. `order` must end in what makes a row unique.

    `limit` is brought into 1..200. Raises BadCursor.
    """
    limit = max(1, min(limit, LIMIT_MOST))
    query = select(table).where(condition)
    if cursor:
        query = query.where(_after(table, order, _decode(table, order, cursor)))
    query = _ordered(query, table, order).limit(limit + 1)
    rows = connection.execute(query).mappings().all()
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(items=tuple(to_view(row, view) for row in shown), next_cursor=_encode(shown[-1], order) if more else "")


def to_view(row: RowMapping, view: type[S]) -> S:
    """A row as its struct; JSON columns become the type of the field of the same name."""
    values: dict[str, object] = {}
    for name, decoder in _decoders(view).items():
        values[name] = row[name] if decoder is None else decoder.decode(row[name])
    return view(**values)


_known_decoders: dict[type[msgspec.Struct], dict[str, msgspec.json.Decoder[object] | None]] = {}


def _decoders(view: type[msgspec.Struct]) -> dict[str, msgspec.json.Decoder[object] | None]:
    if view not in _known_decoders:
        fields = msgspec.structs.fields(view)
        plain = (str, int, float, bool)
        _known_decoders[view] = {f.name: None if f.type in plain else msgspec.json.Decoder(f.type) for f in fields}
    return _known_decoders[view]


def _ordered(
    query: "Select[tuple[SqlValue, ...]]", table: Table, order: Sequence[Order]
) -> "Select[tuple[SqlValue, ...]]":
    return query.order_by(*(table.c[o.column].desc() if o.newest_first else table.c[o.column].asc() for o in order))


def _after(table: Table, order: Sequence[Order], values: Sequence[SqlValue]) -> ColumnElement[bool]:
    """(a, b) after (x, y) as: a after x, or a = x and b after y; SQL's row comparison knows one direction only."""
    alternatives: list[ColumnElement[bool]] = []
    for i, (o, value) in enumerate(zip(order, values, strict=True)):
        column: Column[SqlValue] = table.c[o.column]
        equal = [table.c[p.column] == v for p, v in zip(order[:i], values[:i], strict=True)]
        alternatives.append(and_(*equal, column < value if o.newest_first else column > value))
    return or_(*alternatives)


def _encode(row: RowMapping, order: Sequence[Order]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([row[o.column] for o in order])).decode().rstrip("=")


def _decode(table: Table, order: Sequence[Order], cursor: str) -> list[SqlValue]:
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        values = msgspec.json.decode(text, type=list[SqlValue])
        expected = [table.c[o.column].type.python_type for o in order]
        if [type(v) for v in values] == expected:
            return values
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        pass
    raise BadCursor(f"expected a cursor that this list gave out, found {cursor[:60]!r}; start again without one")
