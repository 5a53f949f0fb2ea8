"""Every example deployed on the one platform, and asked through its gateway.

Python, Node, Go and a static site stand for all in `make test`; the others are for `make test-all`, and their builders
are tested by themselves in `tests/actors/builder/test_languages.py`.
"""

from pathlib import Path

import pytest

from tests.system.platform import Platform, until
from tests.toolchains import need

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEPLOY_SECONDS = 600
_LONG = pytest.mark.long

CASES = [
    pytest.param("hello-python", ("python3",), "Hello from Rayfold", id="python"),
    pytest.param("hello-node", ("node",), "Hello from Rayfold on Node", id="node"),
    pytest.param("hello-static", ("python3",), "<!doctype html>", id="static"),
    pytest.param("hello-go", ("go",), "Hello from Rayfold on Go", id="go"),
    pytest.param("hello-java", ("java", "mvn"), "Hello from Rayfold on Java", id="java", marks=_LONG),
    pytest.param("hello-php", ("php", "composer"), "Hello from Rayfold on PHP", id="php", marks=_LONG),
    pytest.param("hello-ruby", ("ruby", "bundle"), "Hello from Rayfold on Ruby", id="ruby", marks=_LONG),
    pytest.param("hello-poetry", ("python3",), "Hello from Rayfold with poetry", id="poetry", marks=_LONG),
    pytest.param("hello-yarn", ("node",), "Hello from Rayfold with yarn", id="yarn", marks=_LONG),
    pytest.param("hello-pnpm", ("node",), "Hello from Rayfold with pnpm", id="pnpm", marks=_LONG),
    pytest.param("hello-spa", ("node",), "<!doctype html>", id="spa", marks=_LONG),
]

pytestmark = [pytest.mark.system, pytest.mark.timeout(DEPLOY_SECONDS + 100)]


@pytest.mark.parametrize(("example", "programs", "answer"), CASES)
def test_an_example_is_deployed_and_answers(
    platform: Platform, told: list[str], example: str, programs: tuple[str, ...], answer: str
) -> None:
    need(*programs)
    platform.cli("deploy", str(EXAMPLES / example), "--app", example, timeout=DEPLOY_SECONDS)
    found = until(f"{example} to answer", lambda: platform.visit(example).text or None, 30)
    assert found.lower().startswith(answer.lower()), found[:300]
    build = platform.cli("builds", "info", "--app", example).json
    told.append(f"{example}: {build['detected']}")
    # The machine has more to test: this instance is not needed any more.
    platform.cli("ps", "stop", "--app", example, timeout=60)
