"""The log of one build: numbers every line, masks secrets, keeps a file and streams lists to a sink.

It must not know what the lines are about; a line that is left out (over the limit) is counted and said so.
"""

import asyncio
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from actors.builder.model import LogLine
from actors.runtime.shim.masking import Masking
from events.clock import now_micros
from events.secrets.forms import printed_forms

LogSink = Callable[[list[LogLine]], Awaitable[None]]

_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
_SECRET_NAME = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|PRIVATE|CREDENTIAL)", re.IGNORECASE)
_MARK = "****"
_KEPT_FOR_REASON = 200
_TELLING = re.compile(r"error|fatal|not found|no matching|could not|failed|missing|denied|✖", re.IGNORECASE)
_LINES_THAT_MATTER = 10


class Mask:
    """Replaces credentials in URLs, and the values of variables whose name says they are secret."""

    def __init__(self, env: Mapping[str, str]) -> None:
        values = {value for name, value in env.items() if _SECRET_NAME.search(name)}
        self.masking = Masking(printed_forms(values))
        """For bytes that are still to be cut into lines."""

    def __call__(self, text: str) -> str:
        """`text` without the secrets."""
        if self.masking:
            text = self.masking.hide(text.encode("utf-8", "replace")).decode()
        return _URL_CREDENTIALS.sub(_MARK + "@", text) if "://" in text else text


class BuildLog:
    """Numbered lines of one build, to a file (mode 0600, one line each) and to a sink."""

    def __init__(self, path: Path, *, sink: LogSink | None, mask: Mask, limit_bytes: int) -> None:
        self._path = path
        self._sink = sink
        self.mask = mask
        self._room = limit_bytes
        self._dropped = 0
        self._fd: int | None = None
        self._recent: deque[str] = deque(maxlen=_KEPT_FOR_REASON)
        self.count = 0

    async def open(self) -> None:
        """Make the file; a build that is run again starts its log anew."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        self._fd = await asyncio.to_thread(os.open, self._path, flags, 0o600)

    async def close(self) -> None:
        """Say how many lines were left out, and close the file."""
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            await self.problem(f"{dropped} more lines of output were left out: the log limit is reached")
        if self._fd is not None:
            fd, self._fd = self._fd, None
            await asyncio.to_thread(os.close, fd)

    async def write(self, texts: Iterable[str]) -> None:
        """Mask, number, keep and stream; waits for the sink, so a slow reader slows the build, not memory."""
        lines: list[LogLine] = []
        for text in texts:
            masked = self.mask(text)
            self._recent.append(masked)
            self.count += 1
            lines.append(LogLine(number=self.count, at=now_micros(), text=masked))
        if not lines:
            return
        if self._fd is not None:
            await asyncio.to_thread(_append, self._fd, lines)
        if self._sink is not None:
            await self._sink(lines)

    async def step(self, text: str) -> None:
        """Announce a step: `-----> text`."""
        self._recent.clear()  # only the failing step's own lines explain its failure
        await self.write([f"-----> {text}"])

    async def detail(self, *texts: str) -> None:
        """Indented lines below a step."""
        await self.write(f"       {text}" for text in texts)

    async def problem(self, text: str) -> None:
        """A warning or an error: ` !     text`, one log line for each line of it."""
        await self.write(f" !     {line}" for line in text.splitlines())

    async def output(self, lines: list[str]) -> None:
        """What a command wrote, indented as a detail; only this is limited, never the builder's own words."""
        kept = []
        for line in lines:
            self._room -= len(line) + 1
            if self._room >= 0:
                kept.append(f"       {line}")
        self._dropped += len(lines) - len(kept)
        await self.write(kept)
        if len(kept) < len(lines):
            self._recent.extend(self.mask(line) for line in lines[len(kept) :])

    def recent(self) -> list[str]:
        """The last lines of the current step, without its announcement."""
        return [line.strip() for line in self._recent if not line.startswith("----->")]

    def lines_that_matter(self) -> tuple[str, ...]:
        """The lines of the current step that look like the cause of its failure, else its last lines.

        Compilers and npm name the cause first and explain at length; tracebacks and pip name it last: both ends.
        """
        texts = [line for line in self.recent() if line not in ("", "npm error")]
        telling = [line for line in dict.fromkeys(texts) if _TELLING.search(line)] or texts[-_LINES_THAT_MATTER:]
        half = _LINES_THAT_MATTER // 2
        return tuple(telling if len(telling) <= _LINES_THAT_MATTER else telling[:half] + telling[-half:])


def _append(fd: int, lines: list[LogLine]) -> None:
    data = "".join(f"{line.number}\t{line.at}\t{line.text}\n" for line in lines).encode("utf-8", "replace")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_log(path: Path) -> list[LogLine]:
    """The lines of a kept build log; a last line torn by a crash is left out. Blocking: call it in a thread."""
    lines: list[LogLine] = []
    for row in path.read_text("utf-8", "replace").split("\n")[:-1]:
        number, at, text = row.split("\t", 2)
        lines.append(LogLine(number=int(number), at=int(at), text=text))
    return lines
