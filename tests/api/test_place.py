"""Where a platform lives: its private directories and tokens."""

import stat
from pathlib import Path

from api import place


def test_tokens_are_made_once_whole_and_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    place.prepare(data)
    tokens = {name: (data / "tokens" / name).read_text() for name in ("admin", "logs")}
    (data / "tokens" / "logs").chmod(0o644)

    place.prepare(data)

    assert {path.name: path.read_text() for path in (data / "tokens").iterdir()} == tokens
    assert all(len(token.strip()) >= 43 for token in tokens.values()) and tokens["admin"] != tokens["logs"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data / "tokens").iterdir()} == {0o600}
