"""Programs are found where a user may look, and a directory that it may not look into is passed over."""

import os
from pathlib import Path

import pytest

from actors.builder.interpreters import find_program

NOBODY = 65534


def found_by_nobody(name: str) -> bool:
    """Whether an ordinary user finds the program; asked in a process of its own when this one is root."""
    pid = os.fork()
    if not pid:
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            os._exit(0 if find_program(name, for_others=False) else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("mode", [0o700, 0o000])
def test_a_directory_that_may_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "sh").touch(mode=0o755)
    locked.chmod(mode)
    monkeypatch.setenv("PATH", f"{locked}:/usr/bin:/bin")
    monkeypatch.setattr("actors.builder.interpreters._PLACES", (str(locked),))
    assert found_by_nobody("sh")
    locked.chmod(0o700)
