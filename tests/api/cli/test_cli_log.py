"""`rayfold log stats` and `archive`: what they ask, what they show, what `--json` gives."""

import json

import pytest

from api.cli import log_verify
from api.cli.document import Document
from api.cli.main import main
from tests.api.cli.conftest import ContractServer

PARTITION = {
    "partition": 3, "tail": 900, "first_hot": 800, "archived_through": 799, "hot_batches": 10, "hot_bytes": 5 << 20,
    "hot_events": 100, "segments": 2, "segment_bytes": 40 << 20, "snapshot_offset": 850, "owner": "supervisor-0",
    "epoch": 7,
}  # fmt: skip
LOG = {
    "archive": "s3://bucket/log",
    "space": {
        "quota_bytes": 2 << 30, "in_use_bytes": 1 << 30, "file_bytes": 1 << 30, "share": 0.5,
        "archive_from_share": 0.4, "refuse_from_share": 0.8, "refusing": False, "members": [],
    },
    "trouble": "archive: no answer",
    "last_archived_at": None,
    "last_compacted_at": None,
    "last_defragmented_at": None,
    "partitions": [PARTITION],
}  # fmt: skip
SEGMENT = {
    "partition": 3, "base": 0, "end": 800, "events": 800, "bytes": 40_000, "location": "segments/03/x",
    "sha256": "ab" * 32,
}  # fmt: skip


def test_stats_shows_the_space_and_each_partition(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["logStats"] = (200, LOG)
    assert main(["log", "stats"]) == 0
    shown = capsys.readouterr().out
    for words in ("s3://bucket/log", "50%", "taken", "archive: no answer", "supervisor-0", "850"):
        assert words in shown
    assert main(["log", "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == LOG


def test_archive_asks_for_what_was_named(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["archiveLog"] = (200, {"segments": [SEGMENT]})
    assert main(["log", "archive", "--partition", "3", "--all"]) == 0
    assert "799" in capsys.readouterr().out
    assert main(["log", "archive", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"segments": [SEGMENT]}
    server.answers["archiveLog"] = (200, {"segments": []})
    assert main(["log", "archive"]) == 0
    assert "nothing is old enough" in capsys.readouterr().err
    assert [asked.body for asked in server.of("archiveLog")] == [
        {"all": True, "partition": 3},
        {"all": False},
        {"all": False},
    ]


@pytest.mark.parametrize(
    ("found", "code", "advice"),
    [
        ({"snapshot_damaged": "3:3 in snapshot snapshots/03/x: expected …"}, 1, "delete it from the archive"),
        ({"snapshot_missing": "snapshots/03/x"}, 0, "the log is folded instead"),
        ({"broken": "3:3 in etcd …"}, 1, "restore a backup"),
    ],
)
def test_what_is_wrong_with_a_snapshot_alone_asks_for_no_restore(
    found: dict[str, str], code: int, advice: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYFOLD_URL", raising=False)
    report = {"partition": 3, "events": 3, "broken": "", "snapshot_damaged": "", "snapshot_missing": "", **found}
    monkeypatch.setattr(log_verify, "_walked", lambda *_: Document({"partitions": [report], "unrecognised": []}))
    assert main(["log", "verify"]) == code
    said = capsys.readouterr().err
    assert advice in said
    assert ("restore a backup" in said) == ("broken" in found)
