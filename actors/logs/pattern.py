"""What a line's text must say, as one matcher over bytes: a pattern, words, fields of JSON. Time is linear in the text.

Patterns are RE2's: no look-around and no back references, and therefore none that could run for ever
(docs/decisions/0042). Knows nothing of numbers, times or files.
"""

import re
import re._constants as op  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Callable, Iterable, Sequence

import msgspec
import re2

from actors.logs.errors import BadQuery
from actors.logs.words import inner_words

_SPECIAL = frozenset(".^$*+?{}[]\\|()")
_ANCHORS = re.compile(r"[\^$]|\\[bBAzZ]")
_MEMORY = 16 * 1024 * 1024
"""Bytes that one pattern's automaton may take; beyond it RE2 goes on more slowly, still in linear time."""
_NOT_WORD = r"[^0-9A-Za-z_\x{80}-\x{10ffff}]"

Find = Callable[[bytes, int], int]
"""Where the next match at or after an offset begins; -1 when there is none."""
Check = Callable[[bytes], bool]


class Matcher:
    """All conditions on a text together. `words`: whole words that every text that passes holds, in lower case."""

    def __init__(self, find: Find, *, checks: Sequence[Check], probes: Sequence[Check], words: Iterable[bytes]) -> None:
        self.find = find
        self.words = frozenset(words)
        self._checks = checks
        self._probes = probes

    def may_be_in(self, data: bytes) -> bool:
        """False when no text that stands somewhere in `data`, among other bytes, can pass."""
        return all(probe(data) for probe in self._probes)

    def agrees(self, text: bytes) -> bool:
        """Whether a text in which `find` found something passes the other conditions too."""
        return all(check(text) for check in self._checks)

    def passes(self, text: bytes) -> bool:
        """Whether one text passes."""
        return self.find(text, 0) >= 0 and self.agrees(text)


def matcher(grep: str, words: Sequence[str], fields: Sequence[tuple[str, str]], *, ignore_case: bool) -> Matcher | None:
    """A matcher of all the conditions; None where there is none. Raises BadQuery."""
    finds: list[Find] = []
    checks: list[Check] = []
    probes: list[Check] = []
    known: set[bytes] = set()
    if grep:
        finds.append(_find_pattern(grep, ignore_case))
        known |= pattern_words(grep)
        if _SPECIAL.isdisjoint(grep) or not _ANCHORS.search(grep):
            probes.append(_found(finds[0]))
    for word in words:
        finds.append(_find_word(word))
        known |= inner_words(word.encode("utf-8", "replace"), left=True, right=True)
    for path, value in fields:
        finds.append(_find_field(path))
        checks.append(_check_field(path, value))
        known |= _field_words(path, value)
    if not finds:
        return None
    if plain := [word for word in known if word.isascii()]:
        probes.append(_holds_all(plain))
    return Matcher(finds[0], checks=[*map(_found, finds[1:]), *checks], probes=probes, words=known)


def compiled(
    pattern: str, *, ignore_case: bool = False, captures: bool = False, memory: int = _MEMORY
) -> "re2._Regexp":
    """`pattern` for texts in lines: `^` and `$` are a line's, and nothing matches a line's end. Raises BadQuery."""
    options = re2.Options()
    options.never_nl = True
    options.log_errors = False
    options.max_mem = memory
    options.never_capture = not captures
    try:
        return re2.compile(f"(?m{'i' if ignore_case else ''}){pattern}", options)
    except (re2.error, UnicodeEncodeError) as error:
        raise BadQuery(
            f"expected a regular expression as RE2 knows them (no look-around, no back references), found "
            f"{pattern[:80]!r}: {error}"
        ) from None


def _find_pattern(grep: str, ignore_case: bool) -> Find:
    if _SPECIAL.isdisjoint(grep) and not ignore_case:
        wanted = grep.encode("utf-8", "replace")
        return lambda text, start: text.find(wanted, start)
    plain = _SPECIAL.isdisjoint(grep)
    return _searching(compiled(re2.escape(grep) if plain else grep, ignore_case=ignore_case))


def _searching(regexp: "re2._Regexp") -> Find:
    def find(text: bytes, start: int) -> int:
        match = regexp.search(text, start)
        return -1 if match is None else int(match.start())

    return find


def _find_word(word: str) -> Find:
    regexp = compiled(f"(?:^|{_NOT_WORD})({re2.escape(word)})(?:$|{_NOT_WORD})", ignore_case=True)
    searching = _searching(regexp)

    def find(text: bytes, start: int) -> int:
        at = searching(text, start)
        # The border before the word is part of the match and may belong to the line before.
        return at + 1 if at >= 0 and text[at : at + 1] == b"\n" else at

    return find


def _found(find: Find) -> Check:
    return lambda text: find(text, 0) >= 0


def _holds_all(words: Sequence[bytes]) -> Check:
    def holds(data: bytes) -> bool:
        lowered = data.lower()
        return all(word in lowered for word in words)

    return holds


def _find_field(path: str) -> Find:
    name = b'"' + path.rpartition(".")[2].encode() + b'"'
    return lambda text, start: text.find(name, start)


def _check_field(path: str, value: str) -> Check:
    steps = path.split(".")

    def check(text: bytes) -> bool:
        try:
            found: object = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return False
        if isinstance(found, dict) and path in found:
            return _same(found[path], value)
        for step in steps:
            if not isinstance(found, dict) or step not in found:
                return False
            found = found[step]
        return _same(found, value)

    return check


def _same(found: object, value: str) -> bool:
    return (found if isinstance(found, str) else msgspec.json.encode(found).decode()) == value


def _field_words(path: str, value: str) -> set[bytes]:
    """What stands in a line whatever way its JSON is written: words of ASCII, for others may be escaped."""
    texts = (*path.split("."), value)
    plain = [text for text in texts if text.isascii() and text.isprintable() and not set(text) & set('"\\/')]
    return {word for text in plain for word in inner_words(text.encode(), left=True, right=True)}


def pattern_words(pattern: str) -> set[bytes]:
    """Whole words without which `pattern` cannot match; none where that is not plain to see."""
    if _SPECIAL.isdisjoint(pattern):
        return inner_words(pattern.encode("utf-8", "replace"), left=False, right=False)
    if "(?" in pattern or "[:" in pattern:
        # Flags and classes that Python's parser, which only looks for plain characters here, would take otherwise.
        return set()
    try:
        parsed = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError):
        return set()
    return _words_of_sequence(list(parsed))


def _words_of_sequence(items: list[tuple[object, object]]) -> set[bytes]:
    """Words between the parts of a concatenation that are not plain characters."""
    words: set[bytes] = set()
    run: list[str] = []
    border = False
    for kind, value in [*items, (None, None)]:
        if kind is op.LITERAL:
            run.append(chr(value))  # type: ignore[arg-type]
            continue
        ends = kind is op.AT and value in (op.AT_BOUNDARY, op.AT_END, op.AT_BEGINNING)
        words |= inner_words("".join(run).encode("utf-8", "replace"), left=border, right=ends)
        run, border = [], ends
        if kind is op.SUBPATTERN and isinstance(value, tuple):
            words |= _words_of_sequence([(op.ANY, None), *value[3], (op.ANY, None)])
    return words
