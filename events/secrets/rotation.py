"""Changing the master key: every data key is wrapped anew, no value is touched, and nothing is unreadable meanwhile.

Knows the order of the steps. Each may be repeated, and a rotation that was cut off is finished by the next.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from events.failpoints import failpoint
from events.secrets.cipher import MasterKey, new_key
from events.secrets.errors import MasterKeyUnusable
from events.secrets.keyring import Keyring
from events.secrets.master import read_masters, write_masters


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of the master keys before and after, and how many data keys were wrapped anew."""

    before: str
    after: str
    rewrapped: int


async def rotate_master(keyring: Keyring, master_file: Path) -> Rotated:
    """Replace the master key by a new one. Raises MasterKeyUnusable, LogUnavailable.

    A file that holds more than one key is a rotation under way (cut off, or begun by hand with a key of one's own in
    front): it is finished, no further key is made.
    """
    with _alone(master_file):
        masters = await asyncio.to_thread(read_masters, master_file)
        if len(masters) == 1:
            masters = [MasterKey(new_key()), *masters]
            # First the file, with both: from here on whoever reads it opens what either of them wrapped.
            await asyncio.to_thread(write_masters, master_file, masters)
        failpoint("secrets.master-written")
        new, older = masters[0], {master.id: master for master in masters}
        # Then the fence: from here on nothing can be wrapped with the old one, so the list below stays complete.
        await keyring.move_fence(new)
        failpoint("secrets.master-fenced")
        count = await keyring.rewrap_all(older, new)
        failpoint("secrets.master-rewrapped")
        # Last the old key goes: by now it opens nothing.
        await asyncio.to_thread(write_masters, master_file, [new])
    return Rotated(before=masters[1].id, after=new.id, rewrapped=count)


@contextmanager
def _alone(master_file: Path) -> Iterator[None]:
    """One rotation at a time on this machine; the lock goes with its process."""
    lock = os.open(master_file.with_name(master_file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise MasterKeyUnusable(
            "expected no other rotation of the master key, found one under way; wait for it"
        ) from None
    finally:
        os.close(lock)
