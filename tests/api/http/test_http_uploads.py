"""Sources are streamed to disk within a limit, checked against their name, and leave nothing behind when they fail."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.http.conftest import ADMIN, MIB, House

pytestmark = pytest.mark.servers

UPLOADS = "/v1/teams/default/uploads/"


def files(house: House) -> list[str]:
    """What lies in the uploads directory itself."""
    directory = Path(house.data / "uploads")
    return sorted(p.name for p in directory.iterdir() if p.is_file()) if directory.exists() else []


async def test_an_upload_is_kept_under_its_digest_and_can_be_deployed(house: House) -> None:
    content = b"tar" * 500_000
    digest = hashlib.sha256(content).hexdigest()
    assert (await house.call("HEAD", UPLOADS + digest)).status == 404

    put = await house.call("PUT", UPLOADS + digest, data=content)
    assert (put.status, put.json["size_bytes"]) == (201, len(content))
    assert (house.data / "uploads" / digest).read_bytes() == content
    assert (house.data / "uploads" / digest).stat().st_mode & 0o077 == 0
    assert (await house.call("HEAD", UPLOADS + digest)).status == 200
    assert (await house.call("PUT", UPLOADS + digest, data=content)).status == 200
    source = {"source": {"kind": "upload", "digest": digest}}
    answer = await house.post("/v1/teams/default/apps/shop/components/web/deploys", source)
    assert answer.status == 202
    assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"


async def test_what_an_upload_was_made_of_is_its_senders_word_and_is_shown(house: House) -> None:
    web, content = "/v1/teams/default/apps/shop/components/web", b"tar"
    digest = hashlib.sha256(content).hexdigest()
    assert (await house.call("PUT", UPLOADS + digest, data=content)).status == 201
    upload = {"kind": "upload", "digest": digest}
    bad: list[dict[str, str]] = [
        {"commit": text} for text in ("12ab", "G" * 40, "a" * 41, "a" * 40 + "-x", "a" * 40 + "\n")
    ]
    bad += [{"commit": "a" * 40, "author": text} for text in ("Ada\x1b[31m", "A\nB", " Ada", "A" * 201)]
    for said in [*bad, {"author": "Ada"}]:
        refused = await house.post(f"{web}/deploys", {"source": {**upload, **said}})
        assert refused.status == 422 and refused.json["code"] == "invalid", said

    shown = []
    for commit, author in (("a" * 40, "Ada <ada@example.org>"), ("b" * 64 + "-dirty", "")):
        answer = await house.post(f"{web}/deploys", {"source": {**upload, "commit": commit, "author": author}})
        assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"
        build = (await house.get(f"{web}/builds")).json["items"][0]
        assert (build["commit"], build["author"]) == (commit, author)
        shown.append(build["build"])
    found = (await house.get(f"{web}/builds/{shown[0]}/diff?to={shown[1]}")).json["changes"]
    assert [(each["path"], each["before"], each["after"]) for each in found] == [
        ("author", "Ada <ada@example.org>", None),
        ("commit", "a" * 40, "b" * 64 + "-dirty"),
    ]


async def test_knowing_a_digest_is_not_having_the_source(house: House) -> None:
    mill = await house.team("mill")
    content = b"ours"
    digest = hashlib.sha256(content).hexdigest()
    assert (await house.call("PUT", UPLOADS + digest, data=content)).status == 201

    assert (await house.call("HEAD", f"/v1/teams/mill/uploads/{digest}", token=mill)).status == 404
    source = {"source": {"kind": "upload", "digest": digest}}
    stolen = await house.post("/v1/teams/mill/apps/a/components/web/deploys", source, token=mill)
    assert stolen.status == 422
    assert (await house.call("PUT", f"/v1/teams/mill/uploads/{digest}", data=content, token=mill)).status == 201


async def test_the_wrong_digest_is_refused_and_nothing_is_kept(house: House) -> None:
    answer = await house.call("PUT", UPLOADS + "0" * 64, data=b"something else")

    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")
    assert files(house) == []


async def test_a_declared_size_over_the_limit_is_refused_at_once(house: House) -> None:
    host, port = "127.0.0.1", int(house.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(host, port)
    head = f"PUT {UPLOADS}{'0' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
    writer.write(f"{head}Content-Length: {1024 * MIB}\r\n\r\n".encode())
    first = await asyncio.wait_for(reader.readline(), 5)
    writer.close()

    assert first.split()[1] == b"413"
    assert files(house) == []


async def test_an_undeclared_size_over_the_limit_is_cut_off(house: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * (MIB // 4)

    answer = await house.call("PUT", UPLOADS + "0" * 64, data=endless())
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert files(house) == []


async def test_a_sender_that_goes_away_leaves_nothing_behind(house: House) -> None:
    host, port = "127.0.0.1", int(house.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection(host, port)
    head = f"PUT {UPLOADS}{'0' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
    writer.write(f"{head}Content-Length: {MIB}\r\n\r\n".encode() + b"half")
    await writer.drain()
    async with asyncio.timeout(10):
        while not files(house):
            await asyncio.sleep(0.01)
        writer.close()
        while files(house):
            await asyncio.sleep(0.01)


async def test_names_that_are_no_digests(house: House) -> None:
    for name in ("x", "..", "%2e%2e", "A" * 64, "0" * 63):
        assert 400 <= (await house.call("PUT", UPLOADS + name, data=b"x")).status < 500
    assert (await house.call("PUT", "/v1/teams/nobody/uploads/" + "0" * 64, data=b"x")).status == 404
