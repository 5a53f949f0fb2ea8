"""Text from applications and servers, made safe to print: a log line must not be able to drive the reader's terminal.

Knows nothing of where the text comes from.
"""

import json

_INVISIBLE = (
    *range(0x00, 0x20),  # C0: escape sequences start here
    *range(0x7F, 0xA0),  # DEL and C1, which some terminals read as escape sequences
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),  # line separators; bidi embeddings and overrides can make text read backwards
    *range(0x2066, 0x206A),
    0xFEFF,
    *range(0xD800, 0xE000),  # lone surrogates cannot be encoded
)
_VISIBLE = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _INVISIBLE if code != 0x09}
_VISIBLE_IN_JSON = {code: f"\\u{code:04x}" for code in _INVISIBLE if code not in (0x09, 0x0A)}


def visible(text: str) -> str:
    """`text` on one line, with every control character (but tab) written out as `\\x1b`."""
    return text if text.isascii() and text.isprintable() else text.translate(_VISIBLE)


def visible_json(value: object, *, indent: int | None = None) -> str:
    """`value` as JSON for people: letters of every language as they are, what `visible` writes out escaped."""
    return json.dumps(value, ensure_ascii=False, indent=indent).translate(_VISIBLE_IN_JSON)
