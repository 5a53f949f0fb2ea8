"""The file of a template: the same bytes each time, whole or refused; whatever a hostile one holds, nothing is left."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
import zstandard

from actors.builder.artifacts import (
    DirectoryArtifactStore,
    ImageRun,
    Manifest,
    put_bytes,
    put_manifest,
)
from actors.templates.package import Head, Package, PackageError, blocks, head_of
from events.model.build import Artifact
from events.model.template_parts import Document, TemplateComponent

Entry = tuple[tarfile.TarInfo, bytes]


def layer(*entries: Entry) -> bytes:
    """A layer as a build stores it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return zstandard.compress(out.getvalue())


def plain(name: str = "app.py", content: bytes = b"print()") -> Entry:
    return tarfile.TarInfo(name), content


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


class Stored:
    """A store with one artifact in it, and the template that pins it."""

    def __init__(self, tmp_path: Path) -> None:
        self.scratch, self.place = tmp_path / "scratch", tmp_path / "import"
        self.scratch.mkdir()
        self.store = DirectoryArtifactStore(tmp_path / "store")

    async def head(self, content: bytes | None = None, **changes: object) -> Head:
        app = await put_bytes(self.store, layer(plain()) if content is None else content, scratch=self.scratch)
        manifest = Manifest(
            language="python", runtime="python3.11", interpreter=None, app=app, deps=None, processes={"web": "run"}
        )
        manifest = msgspec.structs.replace(manifest, **changes)
        made = await put_manifest(self.store, manifest, scratch=self.scratch)
        artifact = Artifact(digest=made.digest, size_bytes=1, processes={"web": "run"})
        web = TemplateComponent(name="web", process="web", http=True, artifact=artifact)
        return await head_of(self.store, "shop", "1.0", Document(components=(web,)))

    async def file(self, head: Head) -> bytes:
        paths = {blob.digest: await self.store.local_path(blob.digest) for blob in head.blobs}
        return b"".join(blocks(head, paths))

    def read(self, data: bytes) -> Package:
        path = self.scratch / "file"
        path.write_bytes(data)
        return Package(path, self.place)

    def refuses(self, data: bytes, word: str) -> None:
        with pytest.raises(PackageError, match=word) as raised:
            self.read(data)
        assert raised.value.code == "package_invalid"
        assert list(self.place.iterdir()) == []


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def rebuilt(data: bytes, change: Callable[[list[Entry]], Iterable[Entry]], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """The file with other entries, as any tar program would write them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for info, content in change(entries):
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


async def test_a_file_is_the_same_each_time_and_is_a_tar(stored: Stored) -> None:
    head = await stored.head()
    data = await stored.file(head)

    assert data == await stored.file(await stored.head())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["template.json", *(f"blobs/{blob.digest}" for blob in head.blobs)]


async def test_what_is_read_is_what_was_written_and_goes_when_it_is_closed(stored: Stored) -> None:
    head = await stored.head()
    package = stored.read(await stored.file(head))

    assert package.head == head
    assert [path.name for path in package.blobs][-1] == head.document.components[0].artifact.digest
    for path in package.blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    package.close()
    assert list(stored.place.iterdir()) == []


async def test_an_image_is_not_put_into_a_file(stored: Stored) -> None:
    with pytest.raises(PackageError, match="container image") as raised:
        await stored.head(image=ImageRun(reference="r/x@sha256:" + "0" * 64, command="run"))
    assert raised.value.code == "not_exportable"


async def test_a_file_that_is_cut_off_anywhere_is_refused(stored: Stored) -> None:
    data = await stored.file(await stored.head())
    for size in (0, 100, 512, 700, 1024, 2000, len(data) - 1024):
        stored.refuses(data[:size], "cut off|expected")


async def test_every_changed_byte_of_content_is_found(stored: Stored) -> None:
    head = await stored.head()
    data = await stored.file(head)
    at = data.index(b"blobs/") + 512 + 3
    stored.refuses(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "sha256")


async def test_only_plain_files_of_the_names_that_are_due(stored: Stored) -> None:
    data = await stored.file(await stored.head())

    def first(kind: bytes, target: str) -> Callable[[list[Entry]], Iterable[Entry]]:
        return lambda entries: [entries[0], (link(entries[1][0].name, target, kind)), *entries[2:]]

    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
        stored.refuses(rebuilt(data, first(kind, "/etc/passwd")), "plain files only")
    for name in ("../../escaped", "/etc/escaped", "blobs/../escaped", "blobs/" + "0" * 64):
        stored.refuses(
            rebuilt(data, lambda entries, name=name: [entries[0], plain(name, entries[1][1])]),  # type: ignore[misc]
            "expected",
        )
    long = "x" * 300
    stored.refuses(rebuilt(data, lambda entries: [plain(long), *entries], tarfile.GNU_FORMAT), "plain files only")
    stored.refuses(rebuilt(data, lambda entries: [plain(long), *entries], tarfile.PAX_FORMAT), "plain files only")
    stored.refuses(rebuilt(data, lambda entries: [*entries, plain("more")]), "found more")
    stored.refuses(b"\x1f\x8b" + bytes(600), "tar entry")


def with_head(data: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    def changed(entries: list[Entry]) -> Iterable[Entry]:
        told = msgspec.json.decode(entries[0][1])
        change(told)
        text = msgspec.json.encode(told)
        entries[0][0].size = len(text)
        return [(entries[0][0], text), *entries[1:]]

    return rebuilt(data, changed)


async def test_a_head_that_says_something_else_than_the_file_holds(stored: Stored) -> None:
    data = await stored.file(await stored.head())

    stored.refuses(with_head(data, lambda head: head.update(digest="0" * 64)), "digest")
    stored.refuses(with_head(data, lambda head: head.update(rayfold_template=2)), "format 1")
    stored.refuses(with_head(data, lambda head: head.update(name="../x")), "template name")
    stored.refuses(with_head(data, lambda head: head.update(version="a b")), "version")
    stored.refuses(with_head(data, lambda head: head.update(blobs=[])), "found more")
    stored.refuses(with_head(data, lambda head: head.update(document={})), "description of a template")


async def test_an_artifact_that_is_not_all_there_or_leads_out(stored: Stored) -> None:
    head = await stored.head()
    extra = await put_bytes(stored.store, b"extra", scratch=stored.scratch)
    stored.refuses(await stored.file(msgspec.structs.replace(head, blobs=(*head.blobs, extra))), "not both")

    stored.refuses(await stored.file(await stored.head(links={"../../x": "lib"})), "leads out")
    stored.refuses(await stored.file(await stored.head(links={"lib": "/etc"})), "leads out")
    stored.refuses(await stored.file(await stored.head(processes={"web": "rm"})), "other processes")


@pytest.mark.parametrize(
    "content",
    [
        layer(plain("../escaped")),
        layer(plain("/escaped")),
        layer(link("out", "/etc/passwd")),
        layer(link("out", "../../etc")),
        layer(link("out", "../../etc/passwd", tarfile.LNKTYPE)),
        layer(link("out", "sub"), plain("out/escaped")),
        b"no layer at all",
        layer(plain())[:-20],
    ],
)
async def test_a_layer_that_no_node_would_unpack_is_not_imported(stored: Stored, content: bytes) -> None:
    stored.refuses(await stored.file(await stored.head(content)), "layer")


async def test_a_bomb_goes_off_nowhere(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.builder.archive import ExtractLimits
    from actors.templates import package

    monkeypatch.setattr(package, "_LIMITS", ExtractLimits(total_bytes=1 << 20, entries=100))
    stored.refuses(await stored.file(await stored.head(layer(plain("big", bytes(8 << 20))))), "more than|limit")
    many = layer(*(plain(f"f{number}", b"") for number in range(200)))
    stored.refuses(await stored.file(await stored.head(many)), "layer")


async def test_what_an_import_left_that_was_killed_goes_with_a_later_one(stored: Stored) -> None:
    import os

    left = stored.place / "template-left"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))
    stored.read(await stored.file(await stored.head())).close()
    assert list(stored.place.iterdir()) == []
