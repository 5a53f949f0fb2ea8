"""Decides whether an installed version fits what a project asks for, in the notations of npm, pip, Composer and Ruby.

Pure text in, a verdict out; what cannot be read fits everything, and it must not know what is installed.
"""

import re
from typing import Literal

Notation = Literal["npm", "pip", "composer", "ruby"]
Version = tuple[int, ...]

_PART = re.compile(r"(?P<op>\^|~>|~=|~|>=|<=|===|==|!=|>|<|=)?\s*v?(?P<version>\d+(?:\.(?:\d+|[xX*]))*|[xX*])")
_HYPHEN = re.compile(r"v?(\d[\d.]*)\s+-\s+v?(\d[\d.]*)")
_LENGTH = 3


def fits(version: str, wanted: str, notation: Notation) -> bool:
    """Whether `version` (20.11.1) is in the range `wanted` (>=18 <21, ^8.1, ~> 3.1, 3.11)."""
    have = _numbers(version)
    alternatives = re.split(r"\|\|?", wanted) if notation in ("npm", "composer") else [wanted]
    return any(_all_fit(have, text, notation) for text in alternatives)


def _all_fit(have: Version, text: str, notation: Notation) -> bool:
    text = _HYPHEN.sub(r">=\1 <=\2", text)
    return all(_fits(have, part["op"] or "", part["version"], notation) for part in _PART.finditer(text))


def _fits(have: Version, op: str, text: str, notation: Notation) -> bool:
    given = _numbers(text)
    low = (*given, *(0,) * (_LENGTH - len(given)))[:_LENGTH]
    if not given:
        return True  # a lone x or *
    match op:
        case "" | "=" | "==" | "===":
            return have[: len(given)] == given
        case "!=":
            return have[: len(given)] != given
        case ">=":
            return have >= low
        case ">":
            return have[: len(given)] > given
        case "<":
            return have < low
        case "<=":
            return have[: len(given)] <= given
        case "^":
            return low <= have < _next(low, max(1, next((n + 1 for n, part in enumerate(low) if part), _LENGTH)))
        case _:  # ~, ~>, ~=: npm's ~1 and ~1.2 stay within 1 and 1.2; the others let the last number given go up
            kept = min(len(given), 2) if notation == "npm" else max(1, len(given) - 1)
            return low <= have < _next(low, kept)


def _next(low: Version, kept: int) -> Version:
    return (*low[: kept - 1], low[kept - 1] + 1)


def _numbers(text: str) -> Version:
    numbers: list[int] = []
    for part in text.strip().lstrip("v").split("."):
        match = re.match(r"\d+", part)
        if match is None:
            break
        numbers.append(int(match[0]))
    return tuple(numbers)
