"""Language toolchains that tests need: found, else installed from Debian when we are root, else the reason why not."""

import functools
import os
import shutil
import subprocess

import pytest

_PACKAGES = {
    "bundle": "bundler",
    "busybox": "busybox-static",
    "composer": "composer",
    "docker-registry": "docker-registry",
    "gem": "ruby",
    "git": "git",
    "go": "golang-go",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "mvn": "maven",
    "node": "nodejs npm",
    "php": "php-cli",
    "podman": "podman",
    "promtool": "prometheus",
    "python3": "python3",
    "rsyslogd": "rsyslog rsyslog-openssl",
    "ruby": "ruby",
    "runc": "runc",
    "sshd": "openssh-server",
    "svn": "subversion",
    "svnserve": "subversion",
}
_INSTALL_SECONDS = 600


def need(*programs: str) -> None:
    """Skip the test, saying why, when one of `programs` is neither there nor can be installed."""
    for program in programs:
        problem = _missing(program)
        if problem:
            pytest.skip(problem)


@functools.cache
def _missing(program: str) -> str:
    if shutil.which(program):
        return ""
    package = _PACKAGES[program]
    if os.getuid() != 0:
        return f"{program} is not installed and only root can: apt-get install {package}"
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *package.split()]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} is not installed and could not be: {error}"
    if done.returncode != 0 or not shutil.which(program):
        return f"{program} is not installed and apt-get install {package} failed: {done.stderr.strip()[-300:]}"
    return ""
