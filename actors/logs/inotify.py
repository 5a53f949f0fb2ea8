"""Wake-ups when something changes in a directory: inotify through libc. Knows nothing of what is in the files.

Where the kernel grants no watch (its limits), a watcher still wakes on the caller's own time-out, only later.
"""

import asyncio
import ctypes
import logging
import os
import struct
from pathlib import Path

_log = logging.getLogger(__name__)

_MASK = 0x2 | 0x8 | 0x80 | 0x100 | 0x200  # modify, close after writing, moved to, create, delete
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatcher:
    """Sets events when files change. All calls on the event loop; `close` when done."""

    def __init__(self) -> None:
        self.is_live = False
        self._fd = _libc.inotify_init1(_NONBLOCK_CLOEXEC)
        self._wakes: dict[int, set[asyncio.Event]] = {}
        if self._fd < 0:
            _log.warning("inotify: none granted (%s); changes are seen by looking", os.strerror(ctypes.get_errno()))
            return
        self.is_live = True
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def watch(self, directory: Path, wake: asyncio.Event) -> int | None:
        """Set `wake` whenever something in `directory` changes; a handle for `forget`, None when not watched."""
        if not self.is_live:
            return None
        handle = int(_libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK))
        if handle < 0:
            return None
        self._wakes.setdefault(handle, set()).add(wake)
        return handle

    def forget(self, handle: int | None, wake: asyncio.Event) -> None:
        """Undo one `watch`."""
        if handle is None or handle not in self._wakes:
            return
        self._wakes[handle].discard(wake)
        if not self._wakes[handle]:
            del self._wakes[handle]
            _libc.inotify_rm_watch(self._fd, handle)

    def close(self) -> None:
        """Stop watching."""
        if self.is_live:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self.is_live = False

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            handle, _, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            # -1 is the queue's overflow: anyone may have missed something.
            woken = self._wakes.values() if handle == -1 else [self._wakes.get(handle, set())]
            for wakes in woken:
                for wake in wakes:
                    wake.set()
