"""Every guarantee on the correctness page is the checker's own sentence, and every test that it names exists."""

import re
from pathlib import Path

import pytest

from tests.checker.rules import Rule

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "correctness.md").read_text()
_NAMED = re.compile(r"`(?:pytest )?(?:tests/)?([\w/]*?(\w+\.py)|…)::(\w+)(?:\[[^`]*\])?`")


def _named() -> list[tuple[str, str]]:
    """(file name, test name); an ellipsis stands for the file named before it."""
    named: list[tuple[str, str]] = []
    for match in _NAMED.finditer(PAGE):
        named.append((match[2] or named[-1][0], match[3]))
    return named


def test_the_page_names_tests() -> None:
    assert len(_named()) > 40


@pytest.mark.parametrize(("file", "test"), sorted(set(_named())))
def test_a_named_test_exists(file: str, test: str) -> None:
    found = [path for path in (PROJECT / "tests").rglob(file) if re.search(rf"def {test}\b", path.read_text())]
    assert found, f"docs/correctness.md names {file}::{test}, which is not there: correct the page"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"tests/[\w/]+\.py", PAGE))))
def test_a_named_file_exists(path: str) -> None:
    assert (PROJECT / path).is_file()


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.name)
def test_each_guarantee_is_the_checkers_sentence(rule: Rule) -> None:
    assert f"| {rule.name} | {rule.value} | `" in PAGE
