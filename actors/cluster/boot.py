"""Brings the actors of a platform up on a running Ray: `python -m actors.cluster.boot DATA [SECONDS [STARTER]]`.

A process of its own, because a Ray driver dies with its head and whoever watches over the head must not. Repeating it
is harmless: actors that are there are left alone. It ends with the process STARTER that started it.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import msgspec
import ray

from actors.cluster.machines import live_machines
from actors.cluster.pools import RECONCILER, Pool, actor_names, ensure_actor, load_pools
from actors.cluster.settings import load_settings

POLL_SECONDS = 0.1
DEFAULT_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


def boot(data: Path, seconds: float) -> bool:
    """Make every actor and wait until all answered and every partition is served; False when `seconds` pass first."""
    settings = load_settings(data)
    pools = load_pools(data)
    ray.init(
        address=settings.ray_address, namespace=settings.ray_namespace, log_to_driver=False, configure_logging=False
    )
    machines = live_machines(settings)
    handles = [
        ensure_actor(pool, name, settings, machines=machines)
        for pool in pools
        for name in actor_names(pool, settings, machines=machines)
    ]
    opening = [handle.health.remote() for handle in handles]
    itself = Pool(name=RECONCILER, actor="actors.cluster.reconciler:Reconciler", home=True)
    reconciler = ensure_actor(itself, RECONCILER, settings, msgspec.json.encode(pools), machines=machines)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ray.get(reconciler.ready.remote(), timeout=max(0.1, deadline - time.monotonic())):
                ray.wait(opening, num_returns=len(opening), timeout=max(0.0, deadline - time.monotonic()))
                return True
        except ray.exceptions.RayError as error:
            print(f"not yet: {type(error).__name__}", file=sys.stderr)  # noqa: T201
        time.sleep(POLL_SECONDS)
    return False


def _end_with(starter: int) -> None:
    """Whoever ended the keeper, as `rayfold down` does, wants no more actors. Whatever this process waits in, the
    kernel ends it."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != starter:
        sys.exit("expected the process that started this one, found that it has ended")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        _end_with(int(sys.argv[3]))
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_SECONDS
    sys.exit(0 if boot(Path(sys.argv[1]), limit) else 1)
