"""The machines of the Ray cluster that the platform runs on, and what an agent on each is told of it.

Knows Ray's list of nodes; nothing of what an agent does.
"""

import msgspec
import ray

from actors.cluster.settings import PlatformSettings

NAME_LENGTH = 40


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A live Ray node. `address` is where others reach it; `home`: where the platform was started."""

    name: str
    ray_node: str
    address: str
    labels: dict[str, str] = {}
    home: bool = False


def live_machines(settings: PlatformSettings) -> list[Machine]:
    """Every live node of the cluster, the home machine first. Blocking."""
    home = settings.ray_address.rpartition(":")[0]
    nodes: list[dict[str, object]] = ray.nodes()  # type: ignore[no-untyped-call]
    found = [_machine(node, home, settings.node) for node in nodes if node["Alive"]]
    return sorted(found, key=lambda machine: (not machine.home, machine.name))


def _machine(node: dict[str, object], home: str, home_name: str) -> Machine:
    address = str(node["NodeManagerAddress"])
    labels = node.get("Labels")
    return Machine(
        name=home_name if address == home else name_of(str(node["NodeName"]), address),
        ray_node=str(node["NodeID"]),
        address=address,
        labels={k: v for k, v in labels.items() if not k.startswith("ray.io/")} if isinstance(labels, dict) else {},
        home=address == home,
    )


def name_of(given: str, address: str) -> str:
    """A node's name as Rayfold has it: what `ray start --node-name` gave, else its address, both without signs."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in (given or address).lower()).strip("-")
    return name[:NAME_LENGTH] or "node"


def actor_at(pool: str, machine: str) -> str:
    """The name of a pool's actor on a machine other than home. A machine may be called "0": its name alone would be
    that of the actor at home."""
    return f"{pool}-at-{machine}"


def settings_on(machine: Machine, settings: PlatformSettings) -> PlatformSettings:
    """What the agent on `machine` is told. Away from home it listens where others reach it, and what belongs to one
    machine is in directories of its own: the data directory may be one that all of them see."""
    if machine.home:
        return msgspec.structs.replace(settings, node_labels=machine.labels)
    own = settings.data_dir / "nodes" / machine.name
    return msgspec.structs.replace(
        settings,
        node=machine.name,
        bind=machine.address,
        node_labels=machine.labels,
        node_home=str(own),
        node_root=str(own / "node"),
    )
