"""`rayfold up` as a job of a Ray cluster. When the cluster's head is lost, Ray ends the job's processes, and a new head
has none of the job's packages: the keeper, which is to bring the platform back, needs a session and code of its own.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from actors.cluster.ray_joined import job_runtime_env
from api import place
from api.down import PROJECT

IN_PLACE = "local://"  # how Ray names a working directory that every machine has already


def run(*, data: Path, api_port: int | None, gateway_port: int | None) -> int:
    """Start the keeper and stay for as long as it does, for the job to show what it says and to be stopped by."""
    data = data.absolute()
    try:
        place.prepare(data)
        command, environment = keeper_command(data, api_port, gateway_port)
    except (place.PlaceUnusable, OSError) as error:
        print(f"rayfold: {error}", file=sys.stderr)
        return 1
    keeper = subprocess.Popen(command, env=environment, start_new_session=True, cwd="/")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: keeper.send_signal(received))
    return keeper.wait()


def keeper_command(data: Path, api_port: int | None, gateway_port: int | None) -> tuple[list[str], dict[str, str]]:
    """What starts the keeper as a process of its own, and its environment."""
    command = [sys.executable, "-m", "api.up", str(data)]
    command += [str(-1 if port is None else port) for port in (api_port, gateway_port)]
    return command, {**os.environ, "PYTHONPATH": import_path(_code_for(data))}


def import_path(code: Path = PROJECT) -> str:
    """What PYTHONPATH says so that processes find `code`."""
    return os.pathsep.join(p for p in (str(code), os.environ.get("PYTHONPATH", "")) if p)


def _code_for(data: Path) -> Path:
    """The project's code where it stays: where it is, or, if a job brought it in a package, a copy in `data`, for the
    package's own directory is Ray's."""
    package = str((job_runtime_env() or {}).get("working_dir") or "")
    if not package or package.startswith(IN_PLACE) or not PROJECT.is_relative_to(Path.cwd()):
        return PROJECT
    # Ray names a package by its content, and holds those with other names to be what they were under them.
    code = data / "code" / hashlib.blake2b(package.encode(), digest_size=8).hexdigest()
    if not code.is_dir():
        code.parent.mkdir(exist_ok=True)
        code.parent.chmod(0o711)  # what runs as an application's user may read it, as in its package
        draft = code.with_name(f".{code.name}.{os.getpid()}")
        shutil.copytree(PROJECT, draft, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            draft.rename(code)
        except OSError:
            shutil.rmtree(draft)
            if not code.is_dir():  # nobody else was faster
                raise
    return code
