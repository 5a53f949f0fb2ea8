"""The process runtime of one machine, as its agent and whoever takes the platform down open it."""

from actors.cluster.settings import PlatformSettings
from actors.runtime.containers import Containers
from actors.runtime.processes import ProcessRuntime


def process_runtime(settings: PlatformSettings, containers: Containers | None = None) -> ProcessRuntime:
    """Not opened yet. Its instances are where gateways of other machines reach them."""
    return ProcessRuntime(
        node_root=settings.node_root_dir,
        run_dir=settings.node_run_dir,
        host=settings.reached_at,
        containers=containers,
    )
