"""Rendezvous hashing: who comes first for a key. Pure; when members change, few keys move."""

from collections.abc import Iterable

import xxhash


def ranked(key: str, members: Iterable[str]) -> list[str]:
    """`members`, the one that hashes highest for `key` first."""
    return sorted(members, key=lambda member: xxhash.xxh64_intdigest(f"{key}/{member}".encode()), reverse=True)
