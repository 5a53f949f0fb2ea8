"""What can go wrong with images, registries and the container engine, each with a stable code.

Knows nothing of builds or instances: the builder and the node say it in their own words.
"""


class ContainerFault(Exception):
    """Base; the message says what was expected, what was found and what to do."""

    code = "container_fault"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class EngineMissing(ContainerFault):
    """No container engine is configured, or it does not answer."""

    code = "engine_missing"


class ImageRefused(ContainerFault):
    """The name of an image is none, or may not be used."""

    code = "image_refused"


class ImageNotFound(ContainerFault):
    """The registry, or the engine, has no such image, or does not show it to us."""

    code = "image_not_found"


class RegistryRefused(ContainerFault):
    """The registry wants other credentials, or does not answer."""

    code = "registry_refused"
