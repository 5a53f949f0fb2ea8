"""A small synchronous client of the API over http.client, so that a command line starts fast.

Knows HTTP, tokens, idempotency keys and retries; nothing of any one resource.
"""

import http.client
import json
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from api.cli.document import Document
from api.cli.errors import ApiProblem, CliError, Unreachable
from api.cli.place import Address

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
BYTES_SECONDS = 300.0  # for a MiB over a slow line
SAVE_SECONDS = 660.0  # a whole log is read before its export begins
RETRY_SECONDS = 20.0  # how long a read, or a write with its idempotency key, is tried again while nobody answers
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
_CHUNK = 1024 * 1024
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

Query = Mapping[str, object]


def new_key() -> str:
    """A fresh idempotency key: 26 characters that sort by time (48 bits of milliseconds, 80 random bits)."""
    value = (int(time.time() * 1000) & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))


class ApiClient:
    """Speaks with one platform. One connection is kept open between calls; not for use by several threads."""

    def __init__(self, address: Address, *, retry_seconds: float = RETRY_SECONDS) -> None:
        parts = urllib.parse.urlsplit(address.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(f"expected an address like http://127.0.0.1:8500, found {address.url!r}")
        self.address = address
        self._parts = parts
        self._retry_seconds = retry_seconds
        self._kept: http.client.HTTPConnection | None = None

    def get(self, path: str, query: Query | None = None) -> Document:
        """GET an object. Raises ApiProblem, Unreachable."""
        return _decode(self._call("GET", path, query=query))

    def exists(self, path: str, method: str = "HEAD") -> bool:
        """Whether there is such a thing; `method` GET where HEAD is not served. Raises ApiProblem, Unreachable."""
        try:
            self._call(method, path)
        except ApiProblem as problem:
            if problem.status == 404:
                return False
            raise
        return True

    def items(self, path: str, query: Query | None = None, limit: int = 0) -> list[Document]:
        """Every object of a paged list, or the first `limit`."""
        found: list[Document] = []
        cursor = ""
        while True:
            page = self.get(path, {**(query or {}), "cursor": cursor})
            found += page.items()
            cursor = page.text("next_cursor")
            if not cursor or not page.items() or 0 < limit <= len(found):
                return found[:limit] if limit else found

    def save(self, path: str, query: Query | None, target: IO[bytes]) -> None:
        """GET into `target` in pieces, however much it is. Raises ApiProblem, Unreachable, CliError when cut off."""
        connection = self._connect(CONNECT_SECONDS)
        try:
            connection.request("GET", self._target(path, query), headers=self._headers({"Accept": "*/*"}))
            _timeout(connection, SAVE_SECONDS)
            response = connection.getresponse()
            if response.status >= 400:
                _checked(response)
            while piece := response.read(_CHUNK):
                target.write(piece)
        except http.client.IncompleteRead as error:
            raise CliError("the platform's answer was cut off", hint="try again; its log says why") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str = "",
        query: Query | None = None,
    ) -> Document:
        """A write, repeated under the same idempotency key while nobody answers. Raises ApiProblem, Unreachable."""
        headers = {"Idempotency-Key": key or new_key()}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        return _decode(self._call(method, path, query=query, payload=payload, headers=headers))

    def send_bytes(self, path: str, content: bytes) -> Document:
        """POST bytes that may come twice, repeated while nobody answers. Raises ApiProblem, Unreachable."""
        headers = {"Content-Type": "application/octet-stream"}
        return _decode(self._call("POST", path, payload=content, headers=headers, seconds=BYTES_SECONDS))

    def upload(self, path: str, file: Path) -> Document:
        """PUT a file's bytes."""
        connection = self._connect(CONNECT_SECONDS)
        try:
            size = file.stat().st_size
            headers = self._headers({"Content-Type": "application/octet-stream", "Content-Length": str(size)})
            with file.open("rb") as source:
                _timeout(connection, ANSWER_SECONDS)
                try:
                    connection.request("PUT", self._target(path, None), body=source, headers=headers)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it refused before it read everything: the answer says why
            return _decode(_checked(connection.getresponse()))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    @contextmanager
    def stream(
        self, path: str, query: Query | None, headers: Mapping[str, str], idle_seconds: float
    ) -> Iterator[Iterator[bytes]]:
        """The lines of an endless answer. Raises OSError when nothing comes for `idle_seconds`."""
        connection = self._connect(CONNECT_SECONDS)
        try:
            wanted = self._headers({"Accept": "text/event-stream", **headers})
            connection.request("GET", self._target(path, query), headers=wanted)
            _timeout(connection, max(idle_seconds, 0.05))
            response = connection.getresponse()
            if response.status >= 300:
                _checked(response)
            yield iter(response.readline, b"")
        finally:
            connection.close()

    def answers(self) -> bool:
        """True when the API says that it is up. Never raises for an absent platform."""
        try:
            self._once("GET", self._target("/healthz", None), None, {}, CONNECT_SECONDS)
        except (OSError, http.client.HTTPException, CliError):
            return False
        return True

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        payload: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> bytes:
        deadline = time.monotonic() + self._retry_seconds
        pause = FIRST_PAUSE_SECONDS
        target = self._target(path, query)
        while True:
            try:
                return self._once(method, target, payload, headers or {}, seconds)
            except ApiProblem as problem:
                if problem.status not in (429, 503) or time.monotonic() + pause > deadline:
                    raise
            except (OSError, http.client.HTTPException) as error:
                self.close()
                # Nobody listens at all: most likely it is not running, and waiting long helps nobody.
                refused = isinstance(error, ConnectionRefusedError) and not self._alive()
                if refused or time.monotonic() + pause > deadline:
                    raise self._unreachable(error) from error
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def _once(
        self, method: str, target: str, payload: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> bytes:
        connection = self._kept or self._connect(CONNECT_SECONDS)
        self._kept = connection
        try:
            if connection.sock is None:
                connection.timeout = CONNECT_SECONDS
                connection.connect()
            _timeout(connection, seconds)  # sending a body takes of it too
            connection.request(method, target, body=payload, headers=self._headers(headers))
            return _checked(connection.getresponse())
        except ApiProblem:
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the kept connection, if any."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, self._parts.port, timeout=seconds, context=context)
        return http.client.HTTPConnection(host, self._parts.port, timeout=seconds)

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.address.token}", "Accept": "application/json", **more}

    def _target(self, path: str, query: Query | None) -> str:
        # By identity: 0 is equal to False, and a version, an offset and a partition may be 0.
        given = {k: v for k, v in (query or {}).items() if v is not None and v is not False and v != ""}
        text = urllib.parse.urlencode({k: "true" if v is True else v for k, v in given.items()}, doseq=True)
        return self._parts.path.rstrip("/") + path + (f"?{text}" if text else "")

    def _alive(self) -> bool:
        if not self.address.pid:
            return False
        try:
            os.kill(self.address.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _unreachable(self, error: BaseException) -> Unreachable:
        pid = self.address.pid
        process = f"; its process {pid} is {'alive' if self._alive() else 'gone'}" if pid else ""
        what = "in time" if isinstance(error, (socket.timeout, TimeoutError)) else f"({error})"
        return Unreachable(
            f"the platform at {self.address.url} does not answer {what}{process}",
            hint="rayfold status; start it again with rayfold up --detach" if pid else "is RAYFOLD_URL right?",
        )


def quote(segment: str) -> str:
    """One path segment, with nothing in it that could change the path."""
    return urllib.parse.quote(segment, safe="")


def _timeout(connection: http.client.HTTPConnection, seconds: float) -> None:
    connection.timeout = seconds
    sock = getattr(connection, "sock", None)
    if sock is not None:
        sock.settimeout(seconds)


def _checked(response: http.client.HTTPResponse) -> bytes:
    body = response.read(MAX_ANSWER_BYTES)
    if response.status < 400:
        return body
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    raise ApiProblem(response.status, problem if isinstance(problem, dict) else {})


def _decode(body: bytes) -> Document:
    if not body.strip():
        return Document()
    try:
        value = json.loads(body)
    except ValueError as error:
        raise CliError("expected JSON from the platform, found something else", hint="is this its address?") from error
    return Document({"items": value} if isinstance(value, list) else value)
