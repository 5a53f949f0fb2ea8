"""Reads the small files in which a project says what it needs; blocking, and nothing is run.

It must not know what is done with what they say.
"""

import re
from pathlib import Path

_LONGEST = 4 * 1024 * 1024


def text_of(root: Path, name: str) -> str:
    """Text of a file of the source, "" when there is none; only so much of it as a file of settings can need."""
    path = root / name
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.read(_LONGEST).decode("utf-8", "replace")


def first_version(text: str) -> str:
    """The first word of the first line that says something, without a name before it: `ruby-3.1.2` is `3.1.2`."""
    for line in text.splitlines():
        said = line.split("#", 1)[0].strip()
        if said:
            return re.sub(r"^[a-z]+-?(?=\d)", "", said.split()[0])
    return ""
