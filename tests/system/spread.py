"""The app `spread`, which has an instance on each of three machines, and what a platform tells of it, of its pools and
of its operations while machines come and go."""

from functools import partial

import psutil

from tests.system import apps
from tests.system.platform import Json, Platform, until

APP = "spread"
MOVED_SECONDS = 120.0


def deploy(platform: Platform, text: str, *, expect: int | None = 0, seconds: float = 240.0) -> None:
    files = apps.web(text)
    files["app.py"] = files["app.py"].replace('"127.0.0.1"', '"0.0.0.0"')  # where gateways reach it
    source = apps.write(platform.data.parent / f"source-{text}", files)
    platform.cli("deploy", str(source), "--app", APP, timeout=seconds, expect=expect)


def ready_on(platform: Platform) -> list[str]:
    """The nodes of the ready instances, one for each."""
    return sorted(i["node"] for i in platform.instances(APP) if i["status"] == "ready")


def ready_on_all(platform: Platform, *machines: str) -> bool:
    """Whether three instances are ready, on these machines and on each of them."""
    found = ready_on(platform)
    return len(found) == 3 and set(found) == set(machines)


def ready_off(platform: Platform, *machines: str) -> bool:
    """Whether three instances are ready, and none of them on these machines."""
    found = ready_on(platform)
    return len(found) == 3 and not set(found) & set(machines)


def running(platform: Platform) -> list[int]:
    """Its processes on all machines, as this one sees them."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if environment.get("RAYFOLD_APP") == APP and str(platform.data) in environment.get("HOME", ""):
            found.append(process.pid)
    return found


def ready_beside_the_last_stopped(platform: Platform) -> int:
    """How many other instances were ready when the last one that was stopped was told to."""
    ready: set[str] = set()
    found = 0
    for event in platform.events(app=APP):
        instance = event["body"].get("instance", "")
        if event["type"] == "InstanceReady":
            ready.add(instance)
        elif event["type"] in ("InstanceStopping", "InstanceStopped", "InstanceExited", "InstanceUnready"):
            ready.discard(instance)
        if event["type"] == "InstanceStopping":
            found = len(ready)
    return found


def scale(platform: Platform, size: int, *pools: str) -> None:
    """Bring pools to a size, and wait until each has it and is at rest."""
    platform.cli("pool", "scale", *(f"{name}={size}" for name in pools))
    for name in pools:
        until(f"{size} of {name}", partial(_settled, platform, name, size), MOVED_SECONDS)


def _settled(platform: Platform, name: str, size: int) -> bool:
    pool = platform.get(f"/v1/pools/{name}")
    return bool((pool["size"], pool["running"], pool["moving"], pool["draining"]) == (size, size, 0, 0))


def no_operation_runs(platform: Platform) -> bool:
    """Whether every operation that there ever was has ended."""
    found: list[Json] = []
    cursor = ""
    while True:
        page = platform.get(f"/v1/operations?limit=200{cursor}")
        found += page["items"]
        if page["next_cursor"] is None:
            assert found
            return all(operation["status"] != "running" for operation in found)
        cursor = f"&cursor={page['next_cursor']}"
