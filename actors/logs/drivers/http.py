"""Elasticsearch's bulk requests, Loki's push requests, and lines of JSON to any HTTPS address: three shapes of a POST.

What answers 408, 429 or 5xx, or not at all, is asked again; any other refusal is final.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import aiohttp
import msgspec
from yarl import URL

from actors.logs.drivers.port import SEND_SECONDS, DriverAway, DriverRefused, Origin, trusted_context
from actors.logs.line import LogLine

_AGAIN = frozenset({408, 425, 429, *range(500, 600)})
_encode = msgspec.json.Encoder().encode


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A line as JSON, for those that have no shape of their own."""

    stream: str
    number: int
    at_micros: int
    message: str
    source: str
    output: str
    instance: str
    release: int
    gap: int
    team: str
    app: str
    component: str
    node: str


class HttpDriver:
    """Lines of JSON, one a line, POSTed to the URL; a 2xx answers for them."""

    content_type: ClassVar[str] = "application/x-ndjson"

    def __init__(self, url: URL, origin: Origin) -> None:
        self._url = self.endpoint(url.with_user(None))
        self._origin = origin
        login = {"Authorization": aiohttp.encode_basic_auth(url.user, url.password or "")} if url.user else {}
        self._headers = {"Content-Type": self.content_type, **login}
        self._session: aiohttp.ClientSession | None = None

    async def send(self, stream: str, lines: Sequence[LogLine]) -> None:
        """See Driver."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=SEND_SECONDS)
            secure = await trusted_context() if self._url.scheme == "https" else True
            connector = aiohttp.TCPConnector(ssl=secure)
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        try:
            async with self._session.post(self._url, data=self.body(stream, lines), allow_redirects=False) as answer:
                said = await answer.content.read(1024 * 1024)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise DriverAway(f"{self._url.host}: {error or type(error).__name__}") from error
        if answer.status in _AGAIN:
            raise DriverAway(f"{self._url.host} answered {answer.status}")
        if not 200 <= answer.status < 300:
            raise DriverRefused(f"{self._url.host} answered {answer.status}: {said[:200]!r}")
        self.check(said)

    async def aclose(self) -> None:
        """See Driver."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def endpoint(self, url: URL) -> URL:
        """Where to POST to, for the URL that was configured."""
        return url

    def body(self, stream: str, lines: Sequence[LogLine]) -> bytes:
        """The request for `lines`."""
        return b"".join(_encode(self.document(stream, line)) + b"\n" for line in lines)

    def check(self, said: bytes) -> None:
        """Raises DriverAway or DriverRefused where a good status hides a bad answer."""

    def document(self, stream: str, line: LogLine) -> Document:
        """`line` as JSON."""
        origin = self._origin
        return Document(
            stream=stream,
            number=line.number,
            at_micros=line.at,
            message=line.text,
            source=line.source,
            output={"o": "stdout", "e": "stderr"}.get(line.stream, ""),
            instance=line.instance,
            release=line.release,
            gap=line.gap,
            team=origin.team,
            app=origin.app,
            component=origin.component,
            node=origin.node,
        )


class _Item(msgspec.Struct):
    status: int
    error: msgspec.Raw = msgspec.Raw(b"")


class _Bulk(msgspec.Struct):
    errors: bool = False
    items: list[dict[str, _Item]] = []


class ElasticsearchDriver(HttpDriver):
    """`_bulk` with `create` and an id made of stream and number: what was sent twice is there once.

    The last part of the URL's path is the index or data stream.
    """

    def endpoint(self, url: URL) -> URL:
        """See HttpDriver."""
        self._index = url.name or "rayfold-logs"
        return url.parent / "_bulk"

    def body(self, stream: str, lines: Sequence[LogLine]) -> bytes:
        """See HttpDriver."""
        rows: list[bytes] = []
        for line in lines:
            action = {"create": {"_index": self._index, "_id": f"{stream}-{line.number}"}}
            fields = msgspec.to_builtins(self.document(stream, line)) | {"@timestamp": line.at // 1000}
            rows += [_encode(action), _encode(fields)]
        return b"\n".join(rows) + b"\n"

    def check(self, said: bytes) -> None:
        """See HttpDriver."""
        try:
            bulk = msgspec.json.decode(said, type=_Bulk)
        except msgspec.MsgspecError as error:
            raise DriverAway(f"expected Elasticsearch's answer to a bulk request, found {said[:80]!r}") from error
        if not bulk.errors:
            return
        items = [item for each in bulk.items for item in each.values()]
        if any(item.status in _AGAIN for item in items):
            raise DriverAway("Elasticsearch took some of the lines only")
        bad = [item for item in items if item.status >= 300 and item.status != 409]  # 409: there already
        if bad:
            raise DriverRefused(f"Elasticsearch refused {len(bad)} lines: {bytes(bad[0].error)[:200]!r}")


class LokiDriver(HttpDriver):
    """Loki's push API: labels are few and steady; number and release go with each line as structured metadata."""

    content_type: ClassVar[str] = "application/json"

    def endpoint(self, url: URL) -> URL:
        """See HttpDriver."""
        return url / "loki/api/v1/push" if url.path in ("", "/") else url

    def body(self, stream: str, lines: Sequence[LogLine]) -> bytes:
        """See HttpDriver."""
        labels: Mapping[str, str] = msgspec.to_builtins(self._origin)
        streams: dict[tuple[str, str], list[tuple[str, str, dict[str, str]]]] = {}
        for line in lines:
            more = {"number": str(line.number), "instance": line.instance, "release": str(line.release)}
            row = (str(line.at * 1000), line.text, more)
            streams.setdefault((line.source, line.stream), []).append(row)
        found: list[dict[str, object]] = []
        for (source, output), rows in streams.items():
            name = {"o": "stdout", "e": "stderr"}.get(output, "none")
            found.append({"stream": {**labels, "source": source, "output": name}, "values": rows})
        return _encode({"streams": found})
