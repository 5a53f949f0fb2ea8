"""What a fold is made of, as one hash: states made by another fold must never be taken for this one's.

Reads this package's own files once; knows nothing of what uses the hash.
"""

import hashlib
from functools import cache
from pathlib import Path

import msgspec

from events.model.registry import EVENT_TYPES


@cache
def fold_fingerprint() -> str:
    """SHA-256 (hex) over the source of every module beside this one, the schema versions, and the version of msgspec.

    The same in every process that runs the same code, whatever its hash seed or directory. It covers more than `apply`:
    a change that could not have mattered costs one replay, a change that was missed would cost the truth.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".pyc")):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    for name, event in sorted(EVENT_TYPES.items()):
        digest.update(f"{name}\0{event.schema_version}\0".encode())
    digest.update(msgspec.__version__.encode())
    return digest.hexdigest()
