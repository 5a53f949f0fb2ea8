"""The file of the master key: base64 of 32 bytes on a line, the key in use first, older ones after it while rotating.

Knows files only; what the keys wrap is the keyring's business. All calls block briefly.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from events.durable import sync_directory
from events.secrets.cipher import MasterKey, new_key
from events.secrets.errors import MasterKeyUnusable

_HEAD = "# The master key of this platform: with it every secret can be read, without it none. Keep a copy elsewhere.\n"


def ensure_master_file(path: Path) -> None:
    """Make a key where there is no file. Of two processes that do so at once, one key stands."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    _write(draft, [MasterKey(new_key())])
    try:
        # A link, not a rename: it never replaces a file that appeared meanwhile.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
    sync_directory(path.parent)


def read_masters(path: Path) -> list[MasterKey]:
    """The keys in the file, the one in use first. Raises MasterKeyUnusable."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text()
    except FileNotFoundError:
        raise MasterKeyUnusable(
            f"expected the master key in {path}, found no file; put your copy of it there"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MasterKeyUnusable(f"expected to read the master key in {path}: {type(error).__name__}") from None
    if mode & 0o077:
        raise MasterKeyUnusable(f"expected {path} to be for its owner only, found mode {mode:o}: chmod 600 {path}")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise MasterKeyUnusable(f"expected a master key in {path}, found none; put your copy of it there")
    return [MasterKey.from_text(line) for line in lines]


def write_masters(path: Path, masters: Sequence[MasterKey]) -> None:
    """Replace the file, all or nothing, durable when this returns."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    _write(draft, masters)
    draft.replace(path)
    sync_directory(path.parent)


def _write(path: Path, masters: Sequence[MasterKey]) -> None:
    """0600 before it holds anything."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(_HEAD + "".join(master.to_text() + "\n" for master in masters))
        file.flush()
        os.fsync(file.fileno())
