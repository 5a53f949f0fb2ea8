"""Takes out of a text what must not be kept: whatever rules match.

Knows text only. Rules come from an application's team; time is linear in the text. Secret values that the platform
gave to an application are out already when a line gets here (actors/runtime/shim/masking.py).
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import re2

from actors.logs.errors import BadBatch, BadQuery
from actors.logs.line import Batch, LineRecord
from actors.logs.pattern import compiled
from actors.logs.segment import Closed, records_of
from events.secrets import MASK

MAX_RULES = 20
MAX_RULE_CHARS = 500
_RULE_MEMORY = 1024 * 1024
"""Bytes that one rule's automaton may take: thousands of rules, of everybody's components, are in memory at once."""


class Redactor:
    """Replaces matches by the mask that secrets have everywhere. Raises BadQuery for a rule that is none.

    What a rule's first group matches is replaced where it has one (`password=(\\S+)`), else all that it matches.
    """

    def __init__(self, rules: Sequence[str] = ()) -> None:
        self._rules = [_checked(rule) for rule in rules]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def text(self, text: str) -> str:
        """`text` without what must not be kept."""
        for rule in self._rules:
            text = _replaced(rule, text)
        return text

    def batch(self, batch: Batch) -> Batch:
        """`batch` without what must not be kept; the same where nothing was found. Raises BadBatch."""
        records = records_of(batch.origin, batch.blob)
        kept = [self._record(record) for record in records]
        if all(old is new for old, new in zip(records, kept, strict=True)):
            return batch
        return msgspec.structs.replace(batch, blob=msgspec.msgpack.encode(kept), origin=None)

    def _record(self, record: LineRecord) -> LineRecord:
        text = record.text if record.gap else self.text(record.text)
        return record if text == record.text else msgspec.structs.replace(record, text=text)


def redacted(item: Batch | Closed, redactor: Redactor) -> Batch | Closed:
    """What is to be stored in place of `item`; what is no sound batch comes back as it is, and is refused for that."""
    if isinstance(item, Closed):
        return item
    try:
        return redactor.batch(item)
    except BadBatch:
        return item


def check_rules(rules: Sequence[str]) -> None:
    """Raises BadQuery saying which rule cannot be used, and why."""
    if len(rules) > MAX_RULES:
        raise BadQuery(f"expected at most {MAX_RULES} rules, found {len(rules)}")
    for rule in rules:
        _checked(rule)


@lru_cache(maxsize=1024)
def _checked(rule: str) -> "re2._Regexp":
    if not rule or len(rule) > MAX_RULE_CHARS:
        raise BadQuery(f"expected a rule of 1 to {MAX_RULE_CHARS} characters, found {len(rule)}")
    regexp = compiled(rule, captures=True, memory=_RULE_MEMORY)
    if regexp.search(b"") is not None:
        raise BadQuery(f"expected a rule that matches something, found {rule[:80]!r}, which matches nothing at all")
    return regexp


def _replaced(rule: "re2._Regexp", text: str) -> str:
    data = text.encode("utf-8", "replace")
    parts: list[bytes] = []
    end = 0
    for match in rule.finditer(data):
        start, stop = match.span(1) if rule.groups and match.span(1) != (-1, -1) else match.span()
        parts += [data[end:start], MASK.encode()]
        end = stop
    return text if not parts else (b"".join(parts) + data[end:]).decode("utf-8", "replace")
