"""What the operator says about containers: the engine's socket, the registry, and the images that slugs are put on."""

from typing import Annotated

import msgspec

from actors.containers.errors import ImageRefused
from actors.containers.reference import parse_reference

_SCHEMES = ("unix:///", "tcp://", "http://", "https://")


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`engine` empty: no containers here. `registry` empty: images stay in the engine of the machine that built them.

    `engine`: where the Docker API listens, `unix:///run/podman/podman.sock` or `unix:///var/run/docker.sock`.
    `registry`: host[:port]/prefix that images are pushed to. `runners`: a runtime's name (`python3.11`, `node20`,
    `system`) or its family (`python`) → the image that its slugs are put on; where one is named, each build of that
    runtime is pushed as an image as well. `build_memory_mib` bounds each step of a Dockerfile.
    """

    engine: str = ""
    registry: str = ""
    runners: dict[str, str] = {}
    build_memory_mib: Annotated[int, msgspec.Meta(ge=16)] = 2048

    def runner_for(self, runtime: str) -> str | None:
        """The image for slugs of `runtime`: by its whole name, else by its family; None where none is named."""
        return self.runners.get(runtime) or self.runners.get(runtime.rstrip("0123456789."))

    def check(self) -> None:
        """Raises `ImageRefused` for what cannot be meant."""
        if self.engine and not self.engine.startswith(_SCHEMES):
            raise ImageRefused(f"containers.engine: expected an address such as unix:///PATH, found {self.engine!r}")
        for runtime, image in self.runners.items():
            try:
                parse_reference(image)
            except ImageRefused as error:
                raise ImageRefused(f"containers.runners.{runtime}: {error}") from None
        if self.registry:
            parse_reference(f"{self.registry}/x")
        if self.runners and not (self.engine and self.registry):
            raise ImageRefused("containers.runners: expected containers.engine and containers.registry as well")
