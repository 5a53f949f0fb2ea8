"""`python -m tests.system.load PORT HOST RATE SECONDS`: requests at a steady rate, come what may.

Open loop: request k leaves at k / RATE seconds. A line on stdin names the phase that begins; stdin's end ends the load.
Prints one JSON line at the end. Knows HTTP/1.1 and nothing else.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

REQUEST_SECONDS = 10.0
FRESH_EVERY = 10  # each tenth request opens a connection of its own, as a new visitor does
MOST_FAILURES_TOLD = 20


@dataclass
class Phase:
    """What happened to the requests that left in it. `times` in milliseconds."""

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def told(self) -> dict[str, object]:
        ordered = sorted(self.times) or [0.0]
        rate = round(self.sent / self.seconds) if self.seconds else 0
        return {
            "sent": self.sent,
            "failed": self.failed,
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
            "per_second": rate,
            "p50_ms": round(ordered[len(ordered) // 2], 1),
            "p99_ms": round(ordered[int(len(ordered) * 0.99)], 1),
            "max_ms": round(ordered[-1], 1),
        }


class Load:
    """The generator; connections are kept and reused."""

    def __init__(self, port: int, host: str, rate: float, seconds: float) -> None:
        self._port, self._rate, self._seconds = port, rate, seconds
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: load\r\n\r\n".encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.phases: dict[str, Phase] = {"begin": Phase()}
        self._phase = self.phases["begin"]
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until stdin ends or the time is up."""
        commands = asyncio.create_task(self._commands())
        began = entered = time.monotonic()
        phase = self._phase
        count = 0
        async with asyncio.TaskGroup() as requests:
            while not self._over.is_set() and time.monotonic() - began < self._seconds:
                now = time.monotonic()
                if phase is not self._phase:
                    phase.seconds += now - entered
                    phase, entered = self._phase, now
                while count <= (now - began) * self._rate:
                    requests.create_task(self._one(phase, count % FRESH_EVERY == 0))
                    count += 1
                await asyncio.sleep(max(0.0, began + count / self._rate - time.monotonic()))
            phase.seconds += time.monotonic() - entered
        commands.cancel()

    async def _commands(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().strip():
            self._phase = self.phases.setdefault(line, Phase())
            print(json.dumps({"phase": line}), flush=True)
        self._over.set()

    async def _one(self, phase: Phase, fresh: bool) -> None:
        began = time.monotonic()
        phase.sent += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                status = await self._exchange(fresh)
            problem = "" if status == 200 else f"status {status}"
        except (OSError, asyncio.IncompleteReadError, ValueError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"[:200]
        took = time.monotonic() - began
        phase.times.append(took * 1000)
        if problem:
            phase.failed += 1
            if len(phase.failures) < MOST_FAILURES_TOLD:
                phase.failures.append(f"{problem} after {took:.3f} s")

    async def _exchange(self, fresh: bool) -> int:
        kept = None if fresh or not self._idle else self._idle.pop()
        reader, writer = kept or await asyncio.open_connection("127.0.0.1", self._port)
        good = False
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            length = int(head.partition("content-length:")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            good = "connection: close" not in head and not fresh
            return status
        finally:
            if good:
                self._idle.append((reader, writer))
            else:
                writer.close()


async def main() -> None:
    port, host, rate, seconds = sys.argv[1:5]
    load = Load(int(port), host, float(rate), float(seconds))
    await load.run()
    print(json.dumps({name: phase.told() for name, phase in load.phases.items()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
