"""The words of a text, and a small filter that says which words a block of lines cannot hold.

A word is a run of ASCII letters, digits, `_` and bytes above 127; case counts only beyond ASCII. The filter is a Bloom
filter (B. H. Bloom, 1970) with three hashes and 8 to 16 bits a word: 1 to 3 % of the words that are not there pass.
"""

import re
from collections import deque
from collections.abc import Iterable
from itertools import repeat

import xxhash

_WORD = re.compile(rb"[0-9A-Za-z_\x80-\xff]+")
_SPLIT = bytes(code if _WORD.fullmatch(bytes((code,))) else 32 for code in range(256)).lower()
"""Every byte as a word has it, what is no part of one as a space."""
_SHIFTS = (0, 21, 42)
"""Three hashes out of one of 64 bits, 21 each."""
_BITS_PER_WORD = 8
_LEAST_BITS = 1 << 10
_MOST_BITS = 1 << 21


def words_of(text: bytes) -> set[bytes]:
    """Every word of `text`, in lower case."""
    return set(text.translate(_SPLIT).split())


def inner_words(run: bytes, *, left: bool, right: bool) -> set[bytes]:
    """The words of `run` that are whole wherever `run` stands: those that do not touch an end which is not a border."""
    return {
        found.group().lower()
        for found in _WORD.finditer(run)
        if (left or found.start() > 0) and (right or found.end() < len(run))
    }


def make_filter(words: Iterable[bytes]) -> bytes:
    """A filter that holds `words`."""
    hashes = [xxhash.xxh3_64_intdigest(word) for word in words]
    size = 1 << (len(hashes) * _BITS_PER_WORD - 1).bit_length() if hashes else 0
    size = min(max(size, _LEAST_BITS), _MOST_BITS)
    digits = bytearray(b"0") * size
    for shift in _SHIFTS:
        places = [each >> shift & size - 1 for each in hashes]
        # As many calls in C as there are words: a loop here would cost more than everything else about a block.
        deque(map(digits.__setitem__, places, repeat(ord("1"))), maxlen=0)
    return int(bytes(digits), 2).to_bytes(size // 8, "big")


def may_hold(bits: memoryview, word: bytes) -> bool:
    """False when no text with the whole word `word` (in lower case) went into the filter."""
    each, mask = xxhash.xxh3_64_intdigest(word), len(bits) * 8 - 1
    for shift in _SHIFTS:
        place = each >> shift & mask
        if not bits[place >> 3] >> (7 - (place & 7)) & 1:
            return False
    return True
