"""Names of the files in an instance's directory, and how they are written so that a crash never leaves half of one.

Used by the shim and by the platform's side alike, so it imports next to nothing; knows nothing of what the files mean.

    {node_root}/instances/{instance_id}/   0750 root:app-gid
        spec.json     0600  what to run, port, user, environment: written once, by the platform
        state.json    0600  pid, start time, boot id of the main process: written by the shim
        launched      0600  empty; made by the child just before it becomes the command: at most one run ever
        exit.json     0600  how it ended; once there, the output is complete and nothing of the instance runs
        shim.lock     0600  flock held by the living shim
        shim.log      0600  the shim's own complaints
        io/out io/err       named pipes the command writes to
        log/          0700  output segments, see actors/runtime/output.py
        app           ->    the artifact, read-only for the application
        home/ tmp/    0700  the application's own: HOME and TMPDIR, the only places it can write to
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH104, PTH120, PTH123

import json
import os

SPEC = "spec.json"
STATE = "state.json"
LAUNCHED = "launched"
EXIT = "exit.json"
LOCK = "shim.lock"
SHIM_LOG = "shim.log"
PIPES = "io"
LOG = "log"
APP = "app"
HOME = "home"
TMP = "tmp"
READY = b"ready"  # what a shim's first process prints when all is well


def write_json(path: str, value: "dict[str, object]", mode: int = 0o600) -> None:
    """Replace `path` by `value`, all or nothing, durable when this returns."""
    temporary = f"{path}.{os.getpid()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(descriptor, json.dumps(value, separators=(",", ":")).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str) -> "dict[str, object] | None":
    """The object in `path`; None when it is absent or, after a power cut, not whole."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
