"""Takes a platform's actors off a Ray cluster that is somebody else's: `python -m actors.cluster.dismiss DATA`.

A process of its own, as a Ray driver dies with its head. Repeating it is harmless; nothing is lost that is not in the
log.
"""

import sys
from pathlib import Path

import ray

from actors.cluster.pools import RECONCILER
from actors.cluster.settings import load_settings


def dismiss(data: Path) -> list[str]:
    """End every actor of the platform at `data`; returns their names."""
    settings = load_settings(data)
    ray.init(
        address=settings.ray_address, namespace=settings.ray_namespace, log_to_driver=False, configure_logging=False
    )
    # The reconciler first: it would bring the others back.
    names = sorted(ray.util.list_named_actors(), key=lambda name: (name != RECONCILER, name))
    for name in names:
        try:
            ray.kill(ray.get_actor(name), no_restart=True)
        except ValueError:
            continue  # it went by itself
    return names


if __name__ == "__main__":
    dismiss(Path(sys.argv[1]))
