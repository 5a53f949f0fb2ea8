"""What is kept of what an upload's sender says of it."""

from pathlib import Path

from actors.builder.model import SourceSpec
from actors.builder.pack import pack_directory
from events.model.build import said_of
from tests.actors.builder.conftest import Bench, write_tree


async def test_an_upload_records_what_its_sender_says_of_it(bench: Bench, tmp_path: Path) -> None:
    packed = pack_directory(write_tree(tmp_path / "app", {"index.html": "x"}), tmp_path / "packed")
    bench.engine.dirs.uploads.mkdir(parents=True, exist_ok=True)
    packed.path.rename(bench.engine.dirs.uploads / packed.digest)
    commit, author = "a" * 40 + "-dirty", "Ada B <ada@example.org>"

    told = await bench.engine.run(
        bench.request(SourceSpec(kind="upload", digest=packed.digest, ref=said_of(commit, author)))
    )
    silent = await bench.engine.run(bench.request(SourceSpec(kind="upload", digest=packed.digest)))

    assert told.artifact is not None and silent.artifact is not None, (told, silent)
    assert (told.artifact.source_commit, told.artifact.source_author) == (commit, author)
    assert (silent.artifact.source_commit, silent.artifact.source_author) == (None, None)
    assert told.artifact.digest == silent.artifact.digest, "it says nothing of what was made"
    assert f"commit {'a' * 12}, with changes by Ada B" in bench.text(told.build_id)
