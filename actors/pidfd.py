"""File descriptors of processes (pidfd_open(2), pidfd_send_signal(2)): who holds one never means another's pid.

Some builds of CPython, those that uv installs among them, were made with headers older than these system calls and
lack the functions for them; here the C library's `syscall` does it then. Both numbers are the same on every
architecture. Each instance's shim imports this, so it imports nothing that costs memory.
"""

import os
import signal

_PIDFD_SEND_SIGNAL = 424
_PIDFD_OPEN = 434


def pidfd_open(pid: int) -> int:
    """Readable once the process has ended; closed on exec. Raises ProcessLookupError, OSError."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    return _system_call(_PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Raises ProcessLookupError when the process has ended, PermissionError when it is not ours to signal."""
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(pidfd, number)
    else:
        _system_call(_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0)


def _system_call(number: int, *arguments: int) -> int:
    import ctypes

    # A plain number would be passed as a C int; the kernel reads whole registers.
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    returned: int = call(*map(ctypes.c_long, (number, *arguments)))
    if returned == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return returned
