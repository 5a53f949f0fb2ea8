"""What tests of several rooms of actors need."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that other users can pass through, with a short path, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="rf-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)
