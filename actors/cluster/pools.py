"""Pools as data, and how their actors come to be: named, detached, with explicit resources, restarted by Ray for ever.

The composition root decides which pools there are; nothing here knows what their classes do.
"""

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.cluster.machines import Machine, actor_at, settings_on
from actors.cluster.settings import PlatformSettings

MAX_CONCURRENCY = 1000
MAX_PENDING_CALLS = 1000  # of one caller; the next one is refused at the caller, who says so instead of filling memory
RECONCILER = "reconciler"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """`actor` is `module:Class`, an ActorShell. `num_cpus` is what each asks of Ray's scheduler, in cores.

    `size`: at the start, until somebody decides otherwise; `most`: no more are of use, for the reason `why_most`.
    `unit`: what one actor can do of the work that `Health.gauges` name `work`, for automatic scaling; 0: none.
    `per_node`: one on each machine. `one_a_machine`: at most one on each, on as many as its size says, home first.
    `home`: its actors listen on, or keep files of, the machine where the platform was started, and run there.
    `shares`: whether its actors share the log's partitions. `drain_seconds`: then it is stopped, drained or not.
    """

    name: str
    actor: str
    size: int = 1
    most: int = 1
    why_most: str = "one is enough"
    unit: float = 0.0
    shares: bool = False
    drain_seconds: float = 30.0
    num_cpus: float = 0.02
    per_node: bool = False
    one_a_machine: bool = False
    home: bool = False

    @property
    def bound(self) -> bool:
        """Whether each of its actors belongs to a machine of its own, is told so, and is over when that has left."""
        return self.per_node or self.one_a_machine

    def actor_on(self, machine: Machine) -> str:
        """The name of the actor that belongs to `machine`, of a pool that is `bound`."""
        if self.per_node:
            return f"{self.name}-{machine.name}"
        return f"{self.name}-0" if machine.home else actor_at(self.name, machine.name)

    def has(self, actor: str) -> bool:
        """Whether an actor of this name is one of the pool, wanted or not."""
        head, _, index = actor.rpartition("-")
        if self.per_node:
            return actor.startswith(f"{self.name}-")
        return (head == self.name and index.isdecimal()) or (
            self.one_a_machine and actor.startswith(actor_at(self.name, ""))
        )

    def machine_of(self, actor: str, machines: Sequence[Machine]) -> Machine | None:
        """The one machine that `actor` may run on; None: any, or one that is not there where the pool is `bound`."""
        if self.home:
            return next((machine for machine in machines if machine.home), None)
        own = (machine for machine in machines if actor == self.actor_on(machine))
        return next(own, None) if self.bound else None

    def most_on(self, machines: Sequence[Machine]) -> int:
        """How many are of use where there are these machines."""
        return min(self.most, max(1, len(machines))) if self.one_a_machine else self.most


def actor_names(
    pool: Pool,
    settings: PlatformSettings,
    size: int | None = None,
    machines: Sequence[Machine] = (),
    present: Collection[str] = (),
) -> list[str]:
    """The names of a pool's actors, of `size` many where that was decided, or one for each of `machines`. Of those that
    choose their machines, `present` ones stay where they are, whichever machines join."""
    if not pool.bound:
        return [f"{pool.name}-{index}" for index in range(pool.size if size is None else size)]
    there = machines or [Machine(name=settings.node, ray_node="", address="", home=True)]
    if pool.per_node:
        return [pool.actor_on(machine) for machine in there]
    ranked = sorted(there, key=lambda m: (not m.home, pool.actor_on(m) not in present, m.name))
    # Two nodes of one name, as where one joins anew before the old one is known to be gone, are one machine.
    return list(dict.fromkeys(map(pool.actor_on, ranked)))[: pool.size if size is None else size]


def ensure_actor(
    pool: Pool, name: str, settings: PlatformSettings, *extra: object, machines: Sequence[Machine] = ()
) -> Any:
    """A handle on the named actor, made if there is none, on its machine if it belongs to one. Blocking."""
    machine = pool.machine_of(name, machines)
    on = None if machine is None else NodeAffinitySchedulingStrategy(machine.ray_node, soft=False)
    if machines and not (pool.bound or pool.home):
        # By itself Ray fills half of a machine before it takes another, and ours ask for little: one loss would be of
        # all. A wish and no more: where that machine goes, Ray starts it on another.
        wish = machines[int(name.rpartition("-")[2]) % len(machines)]
        on = NodeAffinitySchedulingStrategy(wish.ray_node, soft=True)
    if machine is not None and pool.bound:
        settings = settings_on(machine, settings)
    module, _, class_name = pool.actor.partition(":")
    cls = getattr(importlib.import_module(module), class_name)
    return (
        ray.remote(cls)
        .options(
            name=name,
            namespace=settings.ray_namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=MAX_CONCURRENCY,
            max_pending_calls=MAX_PENDING_CALLS,
            num_cpus=pool.num_cpus,
            scheduling_strategy=on,
        )
        .remote(name, msgspec.json.encode(settings), *extra)
    )


def present_actors() -> list[str]:
    """The names of all actors of the platform that Ray knows, those being started included. Blocking."""
    return sorted(list_named_actors())


def end_actor(name: str, *, for_good: bool = True) -> None:
    """End an actor, else Ray starts it again; one that is gone is ended. Blocking."""
    try:
        ray.kill(ray.get_actor(name), no_restart=for_good)
    except (ValueError, RayError):
        return


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
