"""Server-sent events as a live list: read, reconnect where it broke, and stop at a deadline.

Knows the wire format and the `Last-Event-ID` rule; nothing of what the events say.
"""

import http.client
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from api.cli.client import ApiClient, Query
from api.cli.document import Document
from api.cli.errors import ApiProblem, Unreachable

HEARTBEAT = "heartbeat"
IDLE_SECONDS = 60.0  # longer than the server's heartbeat: a silent connection is a dead one
PAUSE_SECONDS = 0.3
GIVE_UP_SECONDS = 60.0  # how long nobody may answer before a live list ends


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One server-sent event. `id` is what to resume after; `event` its name, `message` when it has none."""

    id: str
    event: str
    data: str

    def document(self) -> Document:
        """The data as a JSON object; empty when it is none."""
        try:
            return Document(json.loads(self.data))
        except ValueError:
            return Document()


def parse(lines: Iterable[bytes]) -> Iterator[Sent]:
    """Server-sent events out of raw lines; a comment, which is how a heartbeat looks, is one named `heartbeat`."""
    name, ident, data = "", "", list[str]()
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data or name:
                yield Sent(id=ident, event=name or "message", data="\n".join(data))
            name, data = "", []
        elif line.startswith(":"):
            yield Sent(id=ident, event=HEARTBEAT, data="")
        else:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
            elif field == "id":
                ident = value


class Feed:
    """A live list of `path`. It survives a restart of the platform; nothing is seen twice or missed."""

    def __init__(self, client: ApiClient, path: str, query: Query | None = None, *, deadline: float = 0.0) -> None:
        """`deadline` is a `time.monotonic()` value; 0 for none."""
        self._client = client
        self._path = path
        self._query = dict(query or {})
        self._deadline = deadline
        self._last = ""

    def __iter__(self) -> Iterator[Sent]:
        """Until the server ends the list with an `end` event, or the deadline passes (TimeoutError). Raises ApiProblem,
        also for one that came amid the list, and Unreachable."""
        broken_since = 0.0
        while True:
            try:
                for sent in self._once():
                    broken_since = 0.0
                    if sent.event == HEARTBEAT:
                        continue
                    if sent.event == "end":
                        return
                    if sent.event == "problem":
                        problem = sent.document()
                        raise ApiProblem(problem.whole("status"), problem.raw)
                    yield sent
            except ApiProblem as problem:
                if problem.status != 503:
                    raise
            except (OSError, http.client.HTTPException):
                pass
            now = time.monotonic()
            if self._deadline and now >= self._deadline:
                raise TimeoutError
            broken_since = broken_since or now
            if now - broken_since > GIVE_UP_SECONDS:
                raise Unreachable(
                    f"the platform at {self._client.address.url} has not answered for {GIVE_UP_SECONDS:.0f} s",
                    hint="rayfold status",
                )
            time.sleep(PAUSE_SECONDS)

    def _once(self) -> Iterator[Sent]:
        headers = {"Last-Event-ID": self._last} if self._last else {}
        with self._client.stream(self._path, self._query, headers, self._idle()) as lines:
            for sent in parse(lines):
                self._last = sent.id or self._last
                yield sent
                if self._deadline and time.monotonic() >= self._deadline:
                    return

    def _idle(self) -> float:
        if not self._deadline:
            return IDLE_SECONDS
        return min(IDLE_SECONDS, max(self._deadline - time.monotonic(), 0.05))
