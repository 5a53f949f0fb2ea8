"""A JSON object as the API sent it, read by name and type: what is absent or of another type reads as empty.

The API may add fields at any time and must never break an older command line by it. Knows no one resource.
"""

import json
from collections.abc import Iterator


class Document:
    """A JSON object. `raw` is what came, for `--json`."""

    def __init__(self, raw: object = None) -> None:
        self.raw: dict[str, object] = raw if isinstance(raw, dict) else {}

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    def __bool__(self) -> bool:
        return bool(self.raw)

    def text(self, *names: str, default: str = "") -> str:
        """The first of `names` that holds a value, as text."""
        for name in names:
            value = self.raw.get(name)
            if value is not None and not isinstance(value, (dict, list)) and value != "":
                return str(value).lower() if isinstance(value, bool) else str(value)
        return default

    def number(self, name: str, default: float = 0) -> float:
        """The number at `name`."""
        value = self.raw.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    def whole(self, name: str, default: int = 0) -> int:
        """The whole number at `name`."""
        return int(self.number(name, default))

    def flag(self, name: str) -> bool:
        """True when `name` holds true."""
        return self.raw.get(name) is True

    def inner(self, name: str) -> "Document":
        """The object at `name`."""
        return Document(self.raw.get(name))

    def items(self, name: str = "items") -> list["Document"]:
        """The objects of the list at `name`."""
        value = self.raw.get(name)
        return [Document(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    def words(self, name: str) -> tuple[str, ...]:
        """The scalars of the list at `name`, as text."""
        value = self.raw.get(name)
        return (
            tuple(str(item) for item in value if not isinstance(item, (dict, list))) if isinstance(value, list) else ()
        )

    def pairs(self, name: str) -> dict[str, str]:
        """The object at `name`, its values as text."""
        value = self.raw.get(name)
        return (
            {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}
            if isinstance(value, dict)
            else {}
        )

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return iter(self.raw.items())
