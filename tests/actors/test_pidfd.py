"""Process descriptors, by CPython's functions and by the system calls where CPython has none."""

import os
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest

from actors.pidfd import pidfd_open, pidfd_send_signal


@pytest.fixture(params=["functions", "system calls"])
def _means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "system calls":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.delattr(signal, "pidfd_send_signal", raising=False)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.usefixtures("_means")
def test_the_descriptor_tells_the_end_of_the_process_that_was_signalled(sleeper: "subprocess.Popen[bytes]") -> None:
    descriptor = pidfd_open(sleeper.pid)
    try:
        assert not os.get_inheritable(descriptor)
        assert select.select([descriptor], [], [], 0)[0] == []
        pidfd_send_signal(descriptor, signal.SIGTERM)
        assert select.select([descriptor], [], [], 30)[0] == [descriptor]
        assert sleeper.wait() == -signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            pidfd_send_signal(descriptor, signal.SIGTERM)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("_means")
def test_a_process_that_is_gone_is_not_found(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessLookupError):
        pidfd_open(sleeper.pid)
