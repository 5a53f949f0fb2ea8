"""A world of processes on one virtual clock: each is an asyncio event loop that can be paused and killed.

All chance comes from one seed and nothing here waits in real time. Knows nothing of etcd or of the log.
"""

import asyncio
import gc
import heapq
import os
import random
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

EPOCH_NS = 1_700_000_000_000_000_000
"""What the wall clock shows when a world begins."""
TEARDOWN_S = 120.0


class Stuck(AssertionError):
    """Nothing more will happen, or the time that everything should need is long over."""


class Process(asyncio.AbstractEventLoop):
    """An event loop whose callbacks run when the world gives it a turn. `kill` ends it as SIGKILL would: no cleanup."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.pid = 100 + len(world.processes)
        self.paused = False
        self.dead = False
        self.fold = "fold-1"
        """The version of the fold that it runs."""
        self.tasks: list[asyncio.Task[Any]] = []
        self.in_threads: set[asyncio.Future[Any]] = set()
        self.ready: deque[asyncio.Handle] = deque()
        world.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, object], name: str = "") -> asyncio.Task[Any]:
        """Start a task from outside; an exception that ends it fails the run."""
        task = self.create_task(work, name=name)
        task.add_done_callback(self._on_spawned_done)
        return task

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.world.wake(self)

    def kill(self) -> None:
        self.dead = True
        self.ready.clear()

    def run_once(self) -> None:
        """What is ready now; what that makes ready is for the next turn, as in asyncio's own loop."""
        for _ in range(len(self.ready)):
            if self.dead or not self.ready:
                return
            handle = self.ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _on_spawned_done(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.dead:
            self.world.errors.append(f"{self.name}: {task.get_name()} died of {error!r}")

    # -- asyncio's side

    def time(self) -> float:
        return self.world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self.ready.append(handle)
            if len(self.ready) == 1:
                self.world.wake(self)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.at(when, lambda: self._due(handle), handle)
        return handle

    def _due(self, handle: asyncio.TimerHandle) -> None:
        if not self.dead:
            self.ready.append(handle)
            if len(self.ready) == 1:
                self.world.wake(self)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """The work of a thread is done at once; the loop learns it a moment later."""
        future = self.create_future()
        self.in_threads.add(future)
        future.add_done_callback(self.in_threads.discard)
        try:
            result = func(*args)
        except Exception as error:
            self.call_later(self.world.chance.random() * 0.001, _settle, future, None, error)
        else:
            self.call_later(self.world.chance.random() * 0.001, _settle, future, result, None)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead and not self.world.ending:
            self.world.errors.append(f"{self.name}: {context.get('message')}: {context.get('exception')!r}")


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class World:
    """Use as `with World(seed) as world:`; inside, clocks, ids and chance of the whole Python process are its own."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.processes: list[Process] = []
        self.errors: list[str] = []
        self.ending = False
        self.trace: list[str] | None = [] if tracing else None
        self._timers: list[tuple[float, int, Callable[[], object], asyncio.TimerHandle | None]] = []
        self._count = 0
        self._runnable: list[Process] = []
        self._current: Process | None = None

    def note(self, text: str) -> None:
        """A line for the trace. Callers that would have to build a long text ask `tracing` first."""
        if self.trace is not None:
            self.trace.append(f"{self.now:.6f} {text}")

    @property
    def tracing(self) -> bool:
        return self.trace is not None

    def clock_ns(self) -> int:
        """Nanoseconds; strictly growing, so that of two moments in one turn the order is known."""
        self._count += 1
        return EPOCH_NS + int(self.now * 1e9) + self._count

    def at(self, when: float, callback: Callable[[], object], handle: asyncio.TimerHandle | None = None) -> None:
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, callback, handle))

    def after(self, delay: float, callback: Callable[[], object]) -> None:
        self.at(self.now + delay, callback)

    def wake(self, process: Process) -> None:
        if process.ready and not process.paused and process not in self._runnable:
            self._runnable.append(process)

    def run(self, done: Callable[[], bool], within_s: float) -> None:
        """Until `done`. Raises Stuck if it is not after `within_s` seconds of the world's time."""
        limit = self.now + within_s
        while not done():
            if not self._step(limit):
                raise Stuck(f"expected an end by {limit:.1f} s, found none at {self.now:.1f} s")

    def _step(self, limit: float) -> bool:
        if self._runnable:
            # Any process may be the next to run: that is the interleaving that a seed chooses.
            process = self._runnable.pop(int(self.chance.random() * len(self._runnable)))
            if not (process.dead or process.paused):
                self._give_turn(process)
                self.wake(process)
            return True
        while self._timers:
            when, _, callback, handle = heapq.heappop(self._timers)
            if handle is not None and handle._cancelled:
                continue
            if when > limit:
                heapq.heappush(self._timers, (when, self._count, callback, handle))
                return False
            self.now = max(self.now, when)
            callback()
            return True
        return False

    def _give_turn(self, process: Process) -> None:
        self._current = process
        asyncio._set_running_loop(process)
        try:
            process.run_once()
        finally:
            asyncio._set_running_loop(None)
            self._current = None

    def end(self) -> None:
        """Let every task run out, so that nothing is left that Python would complain about."""
        self.ending = True
        for process in self.processes:
            process.dead = process.paused = False
            for task in process.tasks:
                task.cancel()
            # What threads of a process that was killed had to say was lost with it.
            for future in list(process.in_threads):
                future.cancel()
        tasks = [task for process in self.processes for task in process.tasks]
        self.run(lambda: all(task.done() for task in tasks), TEARDOWN_S)
        for task in tasks:
            if not task.cancelled():
                task.exception()

    # -- the clocks, ids and chance of this Python process

    def __enter__(self) -> "World":
        self._patches = _patched(self)
        self._patches.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.end()
        finally:
            self._patches.__exit__(None, None, None)

    def pid(self) -> int:
        return 1 if self._current is None else self._current.pid

    def fold(self) -> str:
        """The fold's fingerprint in the process that runs now."""
        return "" if self._current is None else self._current.fold

    def finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._current is not None:
            self._current.create_task(generator.aclose())


@contextmanager
def _patched(world: World) -> Iterator[None]:
    """Every source of chance and time that the code under test may use; tests check that it uses no other."""
    replaced: list[tuple[Any, str, Any]] = [
        (uuid, "uuid4", lambda: uuid.UUID(int=world.chance.getrandbits(128), version=4)),
        (random, "uniform", world.chance.uniform),
        (random, "random", world.chance.random),
        (time, "time_ns", lambda: EPOCH_NS + int(world.now * 1e9)),
        (time, "time", lambda: EPOCH_NS / 1e9 + world.now),
        (time, "monotonic", lambda: world.now),
        (os, "getpid", world.pid),
        (socket, "gethostname", lambda: "host"),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    hooks = sys.get_asyncgen_hooks()
    # When garbage is found would depend on what else this Python process holds.
    collecting = gc.isenabled()
    gc.disable()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=world.finalize)
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        sys.set_asyncgen_hooks(*hooks)
        if collecting:
            gc.enable()
