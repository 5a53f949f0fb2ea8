"""Every command of docs/debugging.md, run on the history that it tells of, prints what the page says."""

import re
import shlex
from pathlib import Path

import pytest

from api.cli.main import main
from tests.docs import incident

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "debugging.md").read_text()
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Command and what the page says it prints; a line `…` stands for any lines, `[…]` for the rest of one."""
    found: list[tuple[str, str]] = []
    for block in _BLOCK.findall(PAGE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def pattern(output: str) -> str:
    lines = output.splitlines(keepends=True)
    parts = [r"(?:.*\n)*?" if line == "…\n" else re.escape(line) for line in lines]
    return "".join(parts).replace(re.escape("[…]"), ".*")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop with the file and the page's modules, and no platform anywhere."""
    incident.write(tmp_path / "incident.jsonl")
    for name, text in _MODULE.findall(PAGE):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYFOLD_DATA", str(tmp_path / "nowhere"))
    for name in ("RAYFOLD_URL", "RAYFOLD_TOKEN", "RAYFOLD_APP", "RAYFOLD_TEAM"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("command", "output"), commands(), ids=lambda text: text[:60] if "\n" not in text else "")
@pytest.mark.usefixtures("desk")
def test_the_page_says_what_happens(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = shlex.split(command)
    assert name == "rayfold"

    code = main(words)

    told, complaint = capsys.readouterr()
    assert code == (1 if "parts at" in output else 0), complaint
    assert re.fullmatch(pattern(output), told), f"expected:\n{output}\nfound:\n{told}"


def test_every_part_of_the_debugger_is_on_the_page() -> None:
    told = " ".join(command for command, _ in commands())
    assert all(word in told for word in ("replay", "--step", "--all", "diff --app", "why", "whatif", "check", "import"))
    assert len(commands()) >= 10
