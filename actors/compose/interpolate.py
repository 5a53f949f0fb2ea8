"""Variables in a Compose file: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${NAME:+other}`, `$$`.

Text in, text out; what has no value becomes empty and is told, as Compose does it.
"""

import re
from collections.abc import Callable, Mapping

from actors.compose.model import ComposeError

_DEEPEST = 8
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<named>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<rest>(?:[^{}]|\{[^{}]*\})*))?\}"
    r"|(?P<wrong>))",
    re.ASCII,
)


def interpolated(text: str, values: Mapping[str, str], missing: Callable[[str], None], depth: int = 0) -> str:
    """`text` with its variables replaced; `missing` hears of each that has no value. Raises `ComposeError`."""

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["wrong"] is not None:
            raise ComposeError(f"expected a variable such as ${{NAME}} or $$ in {text[:80]!r}, found a lone $")
        name, how, rest = match["named"] or match["braced"], match["how"] or "", match["rest"] or ""
        found = values.get(name)
        there = found is not None and not (how.startswith(":") and not found)
        if how.endswith("+"):
            return _inner(rest) if there else ""
        if there:
            return found or ""
        if how.endswith("?"):
            raise ComposeError(f"the file wants the variable {name}: {rest or 'it is not set'}; set it and try again")
        if how.endswith("-"):
            return _inner(rest)
        missing(name)
        return ""

    def _inner(rest: str) -> str:
        return interpolated(rest, values, missing, depth + 1) if depth < _DEEPEST else rest

    return _VARIABLE.sub(value, text)


def variables_of(text: str) -> dict[str, str]:
    """The variables of a `.env` file or an `env_file`: NAME=value lines; quotes around a value are taken off."""
    found: dict[str, str] = {}
    for row in text.splitlines():
        line = row.strip().removeprefix("export ")
        name, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        value = value.strip()
        if value[:1] in ("'", '"') and value[-1:] == value[:1] and len(value) > 1:
            value = value[1:-1]
        else:
            value = re.split(r"\s+#", value, maxsplit=1)[0]
        found[name.strip()] = value
    return found
