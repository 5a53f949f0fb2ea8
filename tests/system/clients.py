"""Clients of a platform that is troubled meanwhile: of its interface, who send commands, and of an app, who visit it.

They keep what was answered, for the test to compare with the log; they know nothing of what happens to the platform.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self

from tests.system.platform import Platform, ask, until

COMPONENTS = 8
"""That the clients change: their streams lie in several partitions of the log."""
KEY = "LAST"
ANSWERED_SECONDS = 120.0
AGAIN_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""Of a visitor. Longer than the gateway waits for a machine that has fallen silent."""


class _Working(AbstractContextManager["_Working"]):
    """Threads that work until the block ends; what one of them raises is raised there."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor
        self._running: list[Future[None]] = []

    def _work(self) -> Sequence[Callable[[], None]]:
        """What each thread does."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        work = self._work()
        self._threads = ThreadPoolExecutor(len(work))
        self._running = [self._threads.submit(each) for each in work]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._threads.shutdown()
        for each in self._running:
            if kind is None:
                each.result()


class Commanders(_Working):
    """Clients that set a component's configuration to another value with each command, in turns on all components, so
    that a command done twice stands in the log twice. Each is sent under its id until it is answered; the last too."""

    def __init__(self, platform: Platform, app: str, *, clients: int = 4, per_second: float = 40.0) -> None:
        super().__init__()
        self.sent: list[str] = []
        self.acknowledged: list[str] = []
        self.again = 0
        """How often a command was sent once more."""
        self.slowest = 0.0
        """Seconds until the answer of the command that took longest."""
        self._platform, self._app = platform, app
        self._clients, self._pause = clients, clients / per_second

    def prepare(self) -> None:
        """Make the app and what is changed."""
        send = self._platform.http
        assert send("POST", "/v1/teams/default/apps", {"name": self._app}).status == 201

        def made(name: str) -> bool:
            status = send("POST", f"/v1/teams/default/apps/{self._app}/components", {"name": name}).status
            assert status in (201, 404, 409), status  # 404: the read models have not seen the app yet
            return status != 404

        for number in range(COMPONENTS):
            until("a component to be made", partial(made, f"c{number}"))

    def _work(self) -> Sequence[Callable[[], None]]:
        return [partial(self._command, client) for client in range(self._clients)]

    def _command(self, client: int) -> None:
        began = time.monotonic()
        for number in count():
            # At a steady pace; who was held up does not make up for it.
            began = max(began + self._pause, time.monotonic())
            if self._over.wait(began - time.monotonic()):
                return
            name = f"{client}-{number}"
            with self._lock:
                self.sent.append(name)
            until(f"{name} to be answered", partial(self._answered, name, number), ANSWERED_SECONDS)
            with self._lock:
                self.acknowledged.append(name)
                self.slowest = max(self.slowest, time.monotonic() - began)

    def _answered(self, name: str, number: int) -> bool:
        target = f"/v1/teams/default/apps/{self._app}/components/c{number % COMPONENTS}/config"
        headers = {"Idempotency-Key": name}
        answer = self._platform.http("PATCH", target, {"set": {KEY: name}}, headers=headers)
        if answer.status in (200, 202):
            return True
        assert answer.status in (0, 429, 503), f"{name}: {answer.status} {answer.text}"
        with self._lock:
            self.again += 1
        time.sleep(AGAIN_SECONDS)
        return False

    def grows(self, by: int = 40, seconds: float = ANSWERED_SECONDS) -> None:
        """Wait until so many more commands have been acknowledged."""
        before = len(self.acknowledged)
        until(f"{by} more commands to be acknowledged", lambda: len(self.acknowledged) >= before + by, seconds)

    def each_is_there_once(self) -> None:
        """Whatever was acknowledged is in the log once; what is in the log was sent, and is there once; the commands of
        one client to one component are there in the order in which it sent them."""
        events = self._platform.events(app=self._app, type="SpecChanged")
        there = [event["body"]["spec"]["config"][KEY] for event in events]
        assert [name for name, times in Counter(there).items() if times > 1] == [], "commands that took effect twice"
        ids = Counter(event["command_id"] for event in events)
        assert [one for one, times in ids.items() if times > 1] == [], "ids of commands that took effect twice"
        assert set(self.acknowledged) - set(there) == set(), "acknowledged, and not in the log"
        assert set(there) - set(self.sent) == set(), "in the log, and sent by nobody"
        assert sorted(self.acknowledged) == sorted(self.sent), "every command was answered in the end"

        orders: dict[tuple[str, str], list[int]] = {}
        for event, name in zip(events, there, strict=True):
            client, _, number = name.partition("-")
            orders.setdefault((event["stream"], client), []).append(int(number))
        assert [whose for whose, order in orders.items() if order != sorted(order)] == [], "out of order"

    def told(self) -> str:
        return f"{len(self.acknowledged)} commands, {self.again} sent again, the slowest took {self.slowest:.1f} s"


class Visitors(_Working):
    """Requests to an app through one gateway or several, one visitor after the other for each of `hosts`."""

    def __init__(self, platform: Platform, app: str, hosts: Sequence[str], *, pause_seconds: float = 0.02) -> None:
        super().__init__()
        self.requests = 0
        self.failed: list[str] = []
        self.slow: list[float] = []
        """Seconds that those took that took more than one."""
        self._platform, self._app, self._hosts, self._pause = platform, app, hosts, pause_seconds
        self._asked_at: dict[int, float] = {}

    @property
    def waiting(self) -> float:
        """For how many seconds the visitor has waited who has waited longest of those that wait now."""
        with self._lock:
            return time.monotonic() - min(self._asked_at.values(), default=time.monotonic())

    def _work(self) -> Sequence[Callable[[], None]]:
        return [partial(self._visit, *each) for each in enumerate(self._hosts)]

    def _visit(self, visitor: int, host: str) -> None:
        headers, port = {"Host": f"{self._app}.localhost"}, self._platform.gateway_port
        while not self._over.wait(self._pause):
            began = time.monotonic()
            with self._lock:
                self._asked_at[visitor] = began
            answer = ask(port, "GET", "/", headers=headers, host=host, seconds=PATIENCE_SECONDS)
            took = time.monotonic() - began
            with self._lock:
                del self._asked_at[visitor]
                self.requests += 1
                if answer.status != 200:
                    self.failed.append(f"{answer.status} through {host} after {took:.1f} s: {answer.text[:80]}")
                if took > 1.0:
                    self.slow.append(round(took, 1))

    def told(self) -> str:
        slow = f", of them slow: {self.slow} s" if self.slow else ""
        return f"{self.requests} requests, {len(self.failed)} failed{slow}"
