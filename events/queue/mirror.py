"""Every topic's board kept up to date from etcd: a listing, then a watch, then a listing again when that fails.

A mirror may be late and may even lack a change for a while; the transaction that follows from it checks.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from events.log.errors import Compacted, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import KeyValue
from events.queue.board import Board
from events.queue.keys import Kind, QueueKeys
from events.queue.steps import decode_progress, decode_task

log = structlog.get_logger("queue")

RELIST_SECONDS = 60.0
"""A watch of etcd may miss a change, as some releases do; then the next listing shows it."""
TASKS_PER_RELIST_SECOND = 100
"""So that listing a full queue stays a small share of the work."""
LOOK_AGAIN_SECONDS = 0.5
RETRY_FIRST_SECONDS = 0.05
RETRY_MAX_SECONDS = 1.0


class Mirror:
    """`changed` is called with the topics that may have something new to do."""

    def __init__(self, client: EtcdClient, keys: QueueKeys, changed: Callable[[set[str]], None]) -> None:
        self.boards: dict[str, Board] = {}
        self.sessions: dict[str, str] = {}
        """Session → its member's name."""
        self.in_flight: set[tuple[str, str]] = set()
        """(topic, id) of the tasks about which a transaction is under way."""
        self.ready = asyncio.Event()
        self._following: asyncio.Timeout | None = None
        self._listed = 0.0
        self._client = client
        self._keys = keys
        self._changed = changed

    def board(self, topic: str) -> Board:
        """The topic's board, made when it is first asked for."""
        board = self.boards.get(topic)
        if board is None:
            board = self.boards[topic] = Board(topic, self.sessions)
        return board

    def look_again(self) -> None:
        """Something is missing here: list anew, though not at once after the last time."""
        if self._following is not None:
            soon = max(asyncio.get_running_loop().time(), self._listed + LOOK_AGAIN_SECONDS)
            until = self._following.when()
            if not self._following.expired() and (until is None or soon < until):
                self._following.reschedule(soon)

    async def run(self) -> None:
        """Follow, for ever."""
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                revision = await self._list()
                pause = RETRY_FIRST_SECONDS
                tasks = sum(len(board) for board in self.boards.values())
                seconds = max(RELIST_SECONDS, tasks / TASKS_PER_RELIST_SECOND)
                self._listed = asyncio.get_running_loop().time()
                async with asyncio.timeout(seconds) as self._following:
                    async for notice in self._client.watch_prefix(self._keys.live, revision + 1):
                        if notice.events:
                            self._tell(self._put_or_delete(e.item, deleted=e.deleted) for e in notice.events)
            except TimeoutError:
                continue
            except (LogUnavailable, Compacted):
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MAX_SECONDS)

    async def _list(self) -> int:
        """Everything anew."""
        listing = await self._client.get_prefix(self._keys.live)
        self.boards = {}
        self.sessions.clear()
        items = list(listing)
        for item in items:
            if item.key.startswith(self._keys.sessions):
                self._session(item, deleted=False)
        tasks: list[tuple[int, int, str, KeyValue]] = []
        for item in items:
            place = self._keys.parse(item.key)
            if place is not None and place.kind is Kind.TASK:
                tasks.append((item.create_revision, decode_task(item.value).sequence, place.topic, item))
            else:
                self._put_or_delete(item, deleted=False)
        for _, _, _, item in sorted(tasks, key=lambda t: t[:2]):
            self._put_or_delete(item, deleted=False)
        for topic, ident in self.in_flight:
            self.board(topic).reserve(ident)
        self.ready.set()
        self._changed(set(self.boards))
        return listing.revision

    def _tell(self, topics: Iterable[set[str]]) -> None:
        touched: set[str] = set()
        for some in topics:
            touched |= some
        self._changed(touched)

    def _put_or_delete(self, item: KeyValue, *, deleted: bool) -> set[str]:
        if item.key.startswith(self._keys.sessions):
            return self._session(item, deleted=deleted)
        if item.key.startswith(self._keys.consumers):
            return self._consumer(item, deleted=deleted)
        place = self._keys.parse(item.key)
        if place is None:
            return set()
        board, now = self.board(place.topic), asyncio.get_running_loop().time()
        if place.kind is Kind.TASK:
            if deleted:
                board.removed(place.task)
            else:
                board.published(decode_task(item.value), item.create_revision, now)
        elif place.kind is Kind.PROGRESS and not deleted:
            board.progressed(place.task, decode_progress(item.value), item.mod_revision, now)
        elif place.kind is Kind.DEAD:
            if deleted:
                board.letters.discard(place.task)
            else:
                board.letters.add(place.task)
        return {place.topic}

    def _session(self, item: KeyValue, *, deleted: bool) -> set[str]:
        session = item.key.removeprefix(self._keys.sessions)
        if not deleted:
            self.sessions[session] = item.value.decode()
            return set()
        if self.sessions.pop(session, None) is None:
            return set()
        for board in self.boards.values():
            board.session_ended(session)
            for key in [key for key in board.consumers if key[0] == session]:
                del board.consumers[key]
        return set(self.boards)

    def _consumer(self, item: KeyValue, *, deleted: bool) -> set[str]:
        session, topic, name = self._keys.parse_consumer(item.key)
        consumers = self.board(topic).consumers
        if deleted:
            consumers.pop((session, name), None)
        else:
            consumers[session, name] = frozenset(item.value.decode().split("\n")) - {""}
        return {topic}
