"""Of an upload only those parts are sent that are not here: over the real HTTP server, by hand and by command line."""

import asyncio
import gzip
import hashlib
import itertools
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from actors.builder.pack import pack_directory
from api.cli.main import main
from api.http.parts import BUNDLE_BYTES, MOST_PARTS, PART_BYTES
from events import failpoints
from tests.api.http.conftest import ADMIN, MIB, Answer, House
from tests.events.log.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers

UPLOADS = "/v1/teams/default/uploads"
PIECES = [gzip.compress(random.Random(number).randbytes(50_000), mtime=0) for number in range(4)]
WHOLE = b"".join(PIECES)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(*pieces: bytes) -> list[dict[str, object]]:
    return [{"sha256": digest(piece), "size_bytes": len(piece)} for piece in pieces]


async def join(house: House, *pieces: bytes, token: str = ADMIN, uploads: str = UPLOADS) -> Answer:
    body = {"sha256": digest(b"".join(pieces)), "parts": listed(*pieces)}
    return await house.post(uploads, body, token=token)


def framed(*pieces: bytes) -> bytes:
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


async def put(house: House, *pieces: bytes, token: str = ADMIN, uploads: str = UPLOADS) -> Answer:
    return await house.call("POST", f"{uploads}/parts", data=framed(*pieces), token=token)


def kept(house: House) -> list[Path]:
    """Every file below the uploads directory."""
    return sorted(path for path in (house.data / "uploads").rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    for name in failpoints.armed():
        failpoints.disarm(name)


async def test_only_what_is_missing_is_sent_and_joined_it_can_be_deployed(house: House) -> None:
    first = await join(house, *PIECES)
    assert (first.status, first.json["missing"]) == (200, [digest(piece) for piece in PIECES])
    assert (await put(house, PIECES[0])).status == 201
    assert (await join(house, *PIECES)).json["missing"] == [digest(piece) for piece in PIECES[1:]]
    answer = await put(house, *PIECES[1:])
    assert (answer.status, answer.json["parts"], answer.json["size_bytes"]) == (201, 3, len(b"".join(PIECES[1:])))
    joined = await join(house, *PIECES)
    assert (joined.status, joined.json["missing"], joined.json["size_bytes"]) == (201, [], len(WHOLE))
    assert (house.data / "uploads" / digest(WHOLE)).read_bytes() == WHOLE
    assert (house.data / "uploads" / digest(WHOLE)).stat().st_mode & 0o077 == 0
    again = await join(house, *PIECES)
    assert (again.status, again.json["missing"], again.json["size_bytes"]) == (200, [], None)

    other = gzip.compress(b"changed", mtime=0)
    second = await join(house, PIECES[0], other, *PIECES[2:], PIECES[0])
    assert (second.status, second.json["missing"]) == (200, [digest(other)])
    await put(house, other)
    assert (await join(house, PIECES[0], other, *PIECES[2:], PIECES[0])).status == 201, "a part may be there twice"

    assert (await house.call("HEAD", f"{UPLOADS}/{digest(WHOLE)}")).status == 200
    source = {"source": {"kind": "upload", "digest": digest(WHOLE)}}
    asked = await house.post("/v1/teams/default/apps/shop/components/web/deploys", source)
    assert (await house.ended(asked.json["operation"]))["status"] == "succeeded"


async def test_no_team_learns_what_another_has(house: House) -> None:
    mill = await house.team("mill")
    await put(house, *PIECES)
    assert (await join(house, *PIECES)).status == 201

    theirs = "/v1/teams/mill/uploads"
    told = await join(house, *PIECES, token=mill, uploads=theirs)
    assert (told.status, len(told.json["missing"])) == (200, len(PIECES))
    assert (await house.call("HEAD", f"{theirs}/{digest(WHOLE)}", token=mill)).status == 404
    assert (await join(house, *PIECES, token=mill)).status == 404, "another team's uploads are not there"
    assert (await put(house, PIECES[0], token=mill)).status == 404
    assert (await join(house, *PIECES, uploads="/v1/teams/nobody/uploads")).status == 404
    assert (await put(house, PIECES[0], uploads="/v1/teams/nobody/uploads")).status == 404


async def test_lists_that_no_upload_has_are_refused_with_what_was_expected(house: House) -> None:
    good = {"sha256": digest(WHOLE), "parts": listed(*PIECES)}
    part = listed(PIECES[0])[0]
    bad: list[dict[str, object]] = [
        {**good, "parts": []},
        {**good, "parts": [part] * (MOST_PARTS + 1)},
        {**good, "sha256": "A" * 64},
        {**good, "parts": [{**part, "sha256": "../" + "a" * 61}]},
        *({**good, "parts": [{**part, "size_bytes": size}]} for size in (0, -1, PART_BYTES + 1)),
        {"sha256": digest(WHOLE)},
    ]
    for body in bad:
        refused = await house.post(UPLOADS, body)
        assert (refused.status, refused.json["code"]) == (422, "invalid"), str(body)[:200]

    over = await house.post(UPLOADS, {**good, "parts": [{**part, "size_bytes": MIB}] * 3})
    assert (over.status, over.json["code"]) == (413, "too_large")
    assert f"{2 * MIB}" in over.json["detail"] and f"{3 * MIB}" in over.json["detail"]
    assert kept(house) == []


async def test_what_is_no_parts_or_too_much_is_refused(house: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield framed(b"x" * (MIB // 4))

    async def sent(data: object) -> tuple[int, str]:
        answer = await house.call("POST", f"{UPLOADS}/parts", data=data)
        return answer.status, answer.json["detail"]

    large, none = await sent(framed(b"x" * (PART_BYTES + 1))), await sent(framed(b""))
    assert large[0] == none[0] == 422 and f"1 to {PART_BYTES} bytes" in large[1] and "length 0" in none[1]
    assert (await sent(b"\xff" * 100))[0] == 422
    for half in (framed(b"four")[:-1], b"\0\0\0"):
        assert await sent(half) == (400, f"expected a part to its end, found {len(half)} bytes of it")
    assert (await sent(b"x" * (BUNDLE_BYTES + 1)))[0] == 413
    assert kept(house) == []
    assert (await sent(endless()))[0] == 413
    assert len(kept(house)) == 1, "the same part over and over, until it was too much"


async def test_parts_that_came_before_the_connection_broke_are_kept(house: House) -> None:
    pieces = [random.Random(number).randbytes(MIB // 2) for number in range(4)]
    _, writer = await asyncio.open_connection("127.0.0.1", int(house.url.rpartition(":")[2]))
    body = framed(*pieces)
    head = f"POST {UPLOADS}/parts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: 3 * MIB // 2])
    await writer.drain()
    async with asyncio.timeout(10):
        while len(kept(house)) < 2:
            await asyncio.sleep(0.01)
    writer.close()
    missing = (await join(house, *pieces[:3])).json["missing"]
    assert digest(pieces[0]) not in missing and digest(pieces[2]) in missing


async def test_parts_that_join_to_something_else_are_refused_and_nothing_is_kept(house: House) -> None:
    await put(house, *PIECES)

    answer = await house.post(UPLOADS, {"sha256": digest(WHOLE), "parts": listed(*PIECES[::-1])})

    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")
    assert digest(WHOLE) in answer.json["detail"]
    assert {path.parent.name for path in kept(house)} == {"default"}, "the parts, and no upload"


async def test_two_who_send_the_same_at_once_both_have_it(house: House) -> None:
    async def one() -> int:
        assert (await join(house, *PIECES)).status in (200, 201)
        await asyncio.gather(put(house, *PIECES[:2]), put(house, *PIECES[1:]))
        return (await join(house, *PIECES)).status

    assert set(await asyncio.gather(*(one() for _ in range(4)))) <= {200, 201}
    assert (house.data / "uploads" / digest(WHOLE)).read_bytes() == WHOLE
    assert not [path for path in kept(house) if path.name.startswith(".partial-")]


async def test_what_fails_on_its_way_leaves_nothing_aside_and_is_sent_again(house: House) -> None:
    failpoints.arm("api.part.before-rename", "once-error")
    assert [(await put(house, *PIECES)).status for _ in range(2)] == [500, 201]
    for line in ("api.join.before-keep", "api.upload.before-rename"):
        failpoints.arm(line, "once-error")
        assert (await join(house, *PIECES)).status == 500
        assert not [path for path in kept(house) if path.name.startswith(".partial-")]
    assert (await join(house, *PIECES)).status == 201


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An application of many files and a large one, 1.8 MB packed: more than is sent at once."""
    monkeypatch.setenv("RAYFOLD_URL", house.url)
    monkeypatch.setenv("RAYFOLD_TOKEN", ADMIN)
    place = tmp_path / "shop"
    rng = random.Random(5)
    for number in range(300):
        path = place / f"pages{number % 9}" / f"page{number}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rng.randbytes(30).hex() for _ in range(60)))
    (place / "photo.jpg").write_bytes(rng.randbytes(1_200_000))
    return place


async def deploy(place: Path) -> int:
    return await asyncio.to_thread(main, ["deploy", os.fspath(place)])


def sent(house: House) -> int:
    """Bytes of all parts that are here."""
    return sum(path.stat().st_size for path in (house.data / "uploads" / "parts" / "default").iterdir())


async def test_a_second_deploy_sends_what_changed(
    house: House, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await deploy(shop) == 0
    first = sent(house)
    assert "rest was there" not in capsys.readouterr().err

    (shop / "pages4" / "page85.html").write_text("another page\n" * 100)
    assert await deploy(shop) == 0
    more = sent(house) - first
    said = capsys.readouterr().err
    assert 0 < more < first / 3 and "(the rest was there)" in said, said

    assert await deploy(shop) == 0
    assert sent(house) == first + more and "there already" in capsys.readouterr().err
    packed = pack_directory(shop, tmp_path / "packed")
    assert (house.data / "uploads" / packed.digest).read_bytes() == packed.path.read_bytes()


async def test_parts_that_go_while_the_command_sends_are_sent_again(
    house: House, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All are there, and then one is not: the command hears of it when they are joined."""

    def prune() -> None:
        failpoints.disarm("api.join.before-read")
        next((house.data / "uploads" / "parts" / "default").iterdir()).unlink()

    failpoints.arm("api.join.before-read", prune)
    assert await deploy(shop) == 0, capsys.readouterr().err


async def test_a_deploy_that_failed_while_sending_goes_on_the_next_time(
    house: House, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = itertools.count()

    def fail_at_the_third() -> None:
        if next(parts) == 2:
            raise failpoints.FailpointError

    failpoints.arm("api.part.before-rename", fail_at_the_third)
    assert await deploy(shop) == 1, "an error of the platform is told"
    assert await deploy(shop) == 0, "and what was sent before is there"
    assert "(the rest was there)" in capsys.readouterr().err


async def test_lost_replies_are_asked_for_again(
    house: House, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The platform has what it was sent, and the command does not know it."""

    async with TcpProxy("127.0.0.1", int(house.url.rpartition(":")[2])) as proxy:
        for line in ("api.part.before-rename", "api.join.before-keep"):

            def lose(line: str = line) -> None:
                failpoints.disarm(line)
                proxy.lose_next_reply()

            failpoints.arm(line, lose)
        monkeypatch.setenv("RAYFOLD_URL", f"http://{proxy.endpoint}")
        assert await deploy(shop) == 0, capsys.readouterr().err
        assert proxy.lost == 2


async def test_a_directory_over_the_limit_is_refused_with_both_sizes(
    house: House, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "video.bin").write_bytes(random.Random(6).randbytes(2 * MIB))
    assert await deploy(shop) != 0
    assert f"expected at most {2 * MIB} bytes" in capsys.readouterr().err
    assert kept(house) == []
