"""One platform for all the system tests: started by its command line, stopped at the end, and nothing may be left."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system import apps
from tests.system.platform import Platform, until

_told: list[str] = []


@pytest.fixture(scope="session")
def told() -> list[str]:
    """Lines for the summary at the end: counts and times that the tests have seen."""
    return _told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _told:
        terminalreporter.section("what the system tests saw")
        for line in _told:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def started() -> Iterator[Platform]:
    """The platform, for tests that start and stop it themselves; others take `platform`."""
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    data = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    data.chmod(0o711)
    platform = Platform(data)
    try:
        _told.append(f"up → ready: {platform.up():.1f} s")
        yield platform
    finally:
        if (data / "platform.json").exists():
            platform.down()
        left = [(p.pid, " ".join(p.cmdline())[:200]) for p in platform.processes()]
        for pid, _ in left:
            Platform.end(pid)
    assert not left, f"expected nothing to run after `rayfold down`, found {left}"
    shutil.rmtree(data)


@pytest.fixture
def platform(started: Platform, request: pytest.FixtureRequest) -> Iterator[Platform]:
    """The platform, up and ready whatever an earlier test did to it."""
    started.ensure()
    failed_before = request.session.testsfailed
    yield started
    if request.session.testsfailed > failed_before:
        print(started.what_it_said())


Deploy = Callable[..., Path]


@pytest.fixture
def deploy(platform: Platform, tmp_path: Path) -> Deploy:
    """Deploy an app's files through the command line and expect it to be live."""

    def run(app: str, files: apps.Files, *options: str) -> Path:
        directory = apps.write(tmp_path / app, files)
        platform.cli("deploy", str(directory), "--app", app, *options)
        return directory

    return run


@pytest.fixture
def scale_of(platform: Platform) -> Callable[[str, int], list[dict[str, object]]]:
    """Wait until so many instances of an app are ready; returns them."""

    def wait(app: str, count: int) -> list[dict[str, object]]:
        def look() -> list[dict[str, object]] | None:
            ready = [i for i in platform.instances(app) if i["status"] == "ready"]
            return ready if len(ready) == count else None

        return until(f"{count} ready instances of {app}", look)

    return wait
