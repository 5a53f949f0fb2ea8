"""The bare repositories that are pushed to, one for each component, and the git processes that serve them.

Runs git and nothing else, with a list of arguments and an environment of its own; knows nothing of HTTP or tokens.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from events.model.base import ServiceId

MAX_PUSH_BYTES = 1 << 30
SERVICES = ("git-receive-pack", "git-upload-pack")
_STOP_SECONDS = 5.0
_HOOK = """#!/bin/sh
exec "$RAYFOLD_PYTHON" -P -m api.git.hook
"""
_CONFIG = {
    "receive.maxInputSize": str(MAX_PUSH_BYTES),
    "receive.denyDeleteCurrent": "refuse",
    "gc.autoDetach": "false",  # nothing goes on when a push has ended
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "core.bigFileThreshold": "16m",
    "transfer.hideRefs": "refs/rayfold",
}


class NoGit(Exception):
    """There is no git program on this machine."""


class Repositories:
    """Below `root`: `{service_id}.git`, and `hooks` for all of them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path_of(self, service_id: ServiceId) -> Path:
        """Where a component's repository is, or would be: the id is made of hexadecimal digits."""
        return self._root / f"{service_id}.git"

    async def ensure(self, service_id: ServiceId) -> Path:
        """The component's repository, made if there is none: aside, then renamed, so that it is never half one."""
        path = self.path_of(service_id)
        await asyncio.to_thread(self._prepare)
        if path.is_dir():
            return path
        aside = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="incoming-", dir=self._root))
        try:
            made = await self._git("init", "--quiet", "--bare", "--initial-branch=main", str(aside))
            if await made.wait() != 0:
                raise OSError(f"git init failed with exit code {made.returncode}")
            with suppress(OSError):  # somebody else made it meanwhile
                await asyncio.to_thread(aside.rename, path)
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        return path

    def _prepare(self) -> None:
        hooks = self._root / "hooks"
        hooks.mkdir(mode=0o700, parents=True, exist_ok=True)
        hook = hooks / "pre-receive"
        if not hook.exists() or hook.read_text() != _HOOK:
            draft = hooks / f".pre-receive.{os.getpid()}"
            draft.write_text(_HOOK)
            draft.chmod(0o700)
            draft.rename(hook)

    async def serve(
        self, service: str, path: Path, *, protocol: str, advertise: bool, told: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        """Start the git program of `service` on a repository; `told` is what its hook needs to know. Raises NoGit."""
        assert service in SERVICES  # noqa: S101 - the caller took it from there
        what = service.removeprefix("git-")
        flags = ["--stateless-rpc", *(["--advertise-refs"] if advertise else [])]
        extra = {"GIT_PROTOCOL": protocol} if protocol else {}
        return await self._git(what, *flags, str(path), told={**told, **extra})

    async def _git(self, *arguments: str, told: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        program = shutil.which("git")
        if program is None:
            raise NoGit("there is no git on the platform's machine; install it, or use rayfold deploy")
        config = {**_CONFIG, "core.hooksPath": str(self._root / "hooks")}
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "RAYFOLD_PYTHON": sys.executable,
            **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}),
            "GIT_CONFIG_COUNT": str(len(config)),
            **{f"GIT_CONFIG_KEY_{n}": key for n, key in enumerate(config)},
            **{f"GIT_CONFIG_VALUE_{n}": value for n, value in enumerate(config.values())},
            **(told or {}),
        }
        return await asyncio.create_subprocess_exec(
            program, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=env, start_new_session=True,
        )  # fmt: skip


async def end(process: asyncio.subprocess.Process) -> None:
    """End a git process with all that it started, hook included; at once if it does not end by itself."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        await process.wait()
