"""Pools as data, and how their actors come to be: named, detached, with explicit resources, restarted by Ray for ever.

The composition root decides which pools there are; nothing here knows what their classes do.
"""

import importlib
from pathlib import Path
from typing import Any

import msgspec
import ray

from actors.cluster.settings import RAY_NAMESPACE, PlatformSettings

MAX_CONCURRENCY = 1000
RECONCILER = "reconciler"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """`actor` is `module:Class`, an ActorShell. `num_cpus` is what each asks of Ray's scheduler, in cores."""

    name: str
    actor: str
    size: int = 1
    num_cpus: float = 0.02
    per_node: bool = False


def actor_names(pool: Pool, settings: PlatformSettings) -> list[str]:
    """The names of a pool's actors."""
    if pool.per_node:
        return [f"{pool.name}-{settings.node}"]
    return [f"{pool.name}-{index}" for index in range(pool.size)]


def ensure_actor(pool: Pool, name: str, settings: PlatformSettings, *extra: object) -> Any:
    """A handle on the named actor, made if there is none. Blocking."""
    module, _, class_name = pool.actor.partition(":")
    cls = getattr(importlib.import_module(module), class_name)
    return (
        ray.remote(cls)
        .options(
            name=name,
            namespace=RAY_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=MAX_CONCURRENCY,
            num_cpus=pool.num_cpus,
        )
        .remote(name, msgspec.json.encode(settings), *extra)
    )


def pools_path(data: Path) -> Path:
    """Where the composition root leaves the pools for whoever boots them."""
    return data / "pools.json"


def save_pools(data: Path, pools: list[Pool]) -> None:
    """Write the pools, all or nothing."""
    draft = pools_path(data).with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(pools))
    draft.replace(pools_path(data))


def load_pools(data: Path) -> list[Pool]:
    """The pools of the platform at `data`."""
    return msgspec.json.decode(pools_path(data).read_bytes(), type=list[Pool])
