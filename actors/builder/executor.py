"""The port of what carries a build out, once its source is fetched and it is known what the source is.

`ProcessExecutor` (process.py) has the machine's tools, `ContainerExecutor` (images.py) a container engine beside them.
An executor must not know of queues, of events, or of other builds.
"""

from collections.abc import Collection
from typing import Protocol

from actors.builder.detect import Detection
from actors.builder.errors import ContainerError
from actors.builder.languages.plan import Workbench
from actors.builder.model import Artifact
from actors.builder.procfile import Procfile
from actors.builder.retention import ImagesGone, InUse
from actors.builder.sources import FetchedSource

_NEEDS_ENGINE = (
    "Expected a container engine, found none configured. Set `engine` under [containers] in the platform's config.toml "
    "(unix:///run/podman/podman.sock, unix:///var/run/docker.sock) and start the platform again, or {0}."
)


class Executor(Protocol):
    """Builds on one machine, several at once. `tests/actors/builder/executor_contract.py` says it again in code."""

    @property
    def builds_images(self) -> bool:
        """Whether a Dockerfile can be built; what a source is taken for depends on it."""
        ...

    async def sweep(self) -> None:
        """Remove what builds left behind whose builder was killed; their work directories are gone already.

        Raises `ContainerFault` when that cannot be done now.
        """
        ...

    async def prune(self, images: Collection[str], *, in_use: InUse, before: float) -> ImagesGone:
        """Remove these images, which nothing refers to, as far as no build may be about to refer to one again, and
        what is left of components that are no more; nothing that was made after `before` (unix seconds).

        May be repeated: what is gone already is answered as gone. Whatever is in the way is told in the answer.
        """
        ...

    async def from_image(self, bench: Workbench) -> Artifact:
        """Take the image that the request names by its digest. Raises `BuilderError` (engine_missing)."""
        ...

    async def build(self, bench: Workbench, found: Detection, procfile: Procfile, source: FetchedSource) -> Artifact:
        """Build the fetched source as what it was found to be, and store it. Raises `BuilderError` (engine_missing).

        The source at `bench.source` holds afterwards what it held before.
        """
        ...


def engine_missing(instead: str) -> ContainerError:
    """What to say where an image is asked for and there is no engine."""
    return ContainerError(_NEEDS_ENGINE.format(instead), code="engine_missing")
