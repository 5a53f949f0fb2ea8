"""The texts in which a secret value is likely to be printed: as it is, line by line, escaped, or in base64.

Must not know who prints or where it is taken out; pure.
"""

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote

LEAST_CHARS = 6
"""Shorter texts stand inside others by chance: they are looked for as words of their own only."""
_LEAST_WORD = 3
_NO_SECRETS = frozenset({"true", "false", "null", "none", "yes", "off", "auto"})
"""Words that stand in everybody's lines: hiding them would tell the value, and hide what is none."""
MOST_CHARS = 4096
"""A longer form is looked for in pieces, so that whoever looks need not hold more than this to see where one ends."""
_LEAST_BASE64 = 8


def printed_forms(values: Iterable[str]) -> tuple[str, ...]:
    """The forms of `values`, longest first, none with a newline in it.

    Shorter than `LEAST_CHARS` is only what is a whole value; of one or two characters none, for anything has them.
    Of a value of several lines each line counts, for lines are what is printed. Base64 is found wherever in a longer
    encoded text the value stands (`user:password` of an Authorization header), but for the two characters at each end
    that hold its neighbours' bits too.
    """
    found: dict[str, None] = {}
    for value in values:
        if _LEAST_WORD <= len(word := value.strip()) < LEAST_CHARS and len(word.split()) == 1:
            found.update(dict.fromkeys([word] if word.lower() not in _NO_SECRETS else []))
            continue
        for form in (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, "")):
            for line in form.splitlines():
                found.update(dict.fromkeys(_pieces(line.strip())))
        if len(value) >= LEAST_CHARS:
            found.update(dict.fromkeys(form for whole in _in_base64(value) for form in _pieces(whole)))
    return tuple(sorted(found, key=lambda form: (-len(form), form)))


def _pieces(form: str) -> list[str]:
    pieces = [form[start : start + MOST_CHARS] for start in range(0, len(form), MOST_CHARS)]
    return [piece for piece in pieces if len(piece) >= LEAST_CHARS]


def _in_base64(value: str) -> list[str]:
    """As a whole, and what of it does not depend on what stands before and after it, for each of the three places."""
    data = value.encode("utf-8", "replace")
    forms = [base64.b64encode(data).decode().rstrip("=")]
    for before in range(3):
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        partial = (before + len(data)) % 3 != 0
        forms.append(coded[(0, 2, 3)[before] : len(coded) - partial])
    long_enough = [form for form in forms if len(form) >= _LEAST_BASE64]
    return [*long_enough, *(form.translate(_URL_SAFE) for form in long_enough)]


_URL_SAFE = str.maketrans("+/", "-_")
