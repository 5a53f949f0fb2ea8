"""What a file system needs before a new, renamed or removed name outlives a power cut. Knows nothing of contents."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Have the names in `directory` on disk when this returns; blocking. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
