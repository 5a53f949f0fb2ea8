"""Takes secret values out of an instance's output before it reaches the disk, as bytes, wherever lines are cut.

Knows the texts to look for, which somebody else made of the values; none of them has a newline in it.
"""

from actors.runtime.shim.segments import LINE_BYTES_MAX, between_characters, encode

MASK = "••••".encode()
"""As `events.secrets.MASK`, which a shim does not import."""
WORDS_BELOW = 6
"""Texts of fewer characters are hidden as words of their own only; as `events.secrets.forms.LEAST_CHARS`."""
_IN_WORDS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class Masking:
    """Hides `texts`, which come longest first. `encode` is `segments.encode` with the texts hidden."""

    def __init__(self, texts: "tuple[str, ...]") -> None:
        self._texts = [text.encode("utf-8", "replace") for text in texts]
        self._words = {text.encode("utf-8", "replace") for text in texts if len(text) < WORDS_BELOW}
        self._longest = max(map(len, self._texts), default=0)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def hide(self, data: bytes) -> bytes:
        """`data` with MASK in place of every text."""
        for text in self._texts:
            if text in data:
                data = _without_word(data, text) if text in self._words else data.replace(text, MASK)
        return data

    def encode(self, data: bytes, tag: bytes, micros: int, final: bool) -> "tuple[bytes, int]":
        """The records for the head of `data`, and how many of its own bytes they stand for.

        Of a line that is too long to be waited for, so much stays behind that no text is cut in two.
        """
        if not self._texts:
            return encode(data, tag, micros, final)
        cut = data.rfind(b"\n") + 1
        if final:
            return encode(self.hide(data), tag, micros, True)[0], len(data)
        records = encode(self.hide(data[:cut]), tag, micros, False)[0]
        end = self.end_of_piece(data, cut)
        return records + _pieces(self.hide(data[cut:end]), tag, micros), end

    def end_of_piece(self, data: bytes, start: int) -> int:
        """How far the unfinished line that begins at `start` may be taken: `start` where it can be waited for.

        At the end no text and no character is cut in two.
        """
        records = (len(data) - start - self._longest - 1) // LINE_BYTES_MAX
        if records <= 0:
            return start
        whole = end = start + records * LINE_BYTES_MAX
        for text in self._texts:
            at = data.find(text, max(start, end - len(text) + 1), end + len(text) - 1)
            if at >= 0:
                end = at
        while end > start and data[end] & 0xC0 == 0x80:
            end -= 1
        # What is one text after the other has no such place: its bytes go as they come.
        return end if end > start else whole


def _without_word(data: bytes, word: bytes) -> bytes:
    """`data` with MASK wherever `word` stands and is no part of a longer word."""
    parts, done, at = [], 0, data.find(word)
    while at >= 0:
        end = at + len(word)
        if not (_IN_WORDS & {*data[max(at - 1, 0) : at], *data[end : end + 1]}):
            parts += [data[done:at], MASK]
            done = end
        at = data.find(word, end)
    return b"".join(parts) + data[done:]


def _pieces(line: bytes, tag: bytes, micros: int) -> bytes:
    """The beginning of a line that goes on."""
    head, records = b"%d %s P " % (micros, tag), []
    while line:
        cut = between_characters(line) if len(line) > LINE_BYTES_MAX else len(line)
        records.append(head + line[:cut] + b"\n")
        line = line[cut:]
    return b"".join(records)
