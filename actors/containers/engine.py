"""The container engine, through the Docker API: pull, push, look at images, list and remove what is ours.

Every call blocks in a thread of its own with a client of its own; whoever asks decides what it means. Docker's engine
and podman's socket answer alike.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import docker
import msgspec
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.errors import ImageNotFound as NoSuchImage

from actors.containers.errors import ContainerFault, EngineMissing, ImageNotFound, RegistryRefused
from actors.containers.reference import ImageReference

API_VERSION = "1.41"
HOME_LABEL = "rayfold.home"
INSTANCE_LABEL = "rayfold.instance"
BUILD_LABEL = "rayfold.build"
SERVICE_LABEL = "rayfold.service"
_SHORT_SECONDS = 60
_TRANSFER_SECONDS = 900
_REMOVE_ATTEMPTS = 20
_REMOVE_PAUSE_SECONDS = 0.25
_T = TypeVar("_T")


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says of itself. `port`: the lowest TCP port it exposes. `command`: entrypoint and arguments.
    `digests`: its names in registries, with its digest there. `created_at`: unix seconds, 0 where it does not say.
    """

    id: str
    command: tuple[str, ...]
    port: int | None
    size_bytes: int
    labels: dict[str, str]
    names: tuple[str, ...]
    digests: tuple[str, ...] = ()
    created_at: float = 0.0


class ContainerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A container, running or not, with the labels it bears."""

    id: str
    name: str
    state: str
    labels: dict[str, str]


class ContainerEngine:
    """One engine at `address` (`unix:///path` or `tcp://host:port`)."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def version(self) -> str:
        """What answers, in words. Raises `EngineMissing`."""

        def ask(api: docker.APIClient) -> str:
            found = api.version()
            platform = found.get("Platform", {}).get("Name", "")
            return f"{found.get('Version', '?')} {platform}".strip()

        return await self._call(ask)

    async def pull(self, reference: ImageReference) -> None:
        """Have the image here; at once when it is here by digest already. Raises `ImageNotFound`, `RegistryRefused`."""

        def pull(api: docker.APIClient) -> None:
            if reference.digest:
                try:
                    _inspect(api, str(reference))
                except NoSuchImage:
                    pass
                else:
                    return
            _read_stream(
                api.pull(reference.name, tag=reference.digest or reference.tag, stream=True, decode=True), reference
            )

        await self._call(pull, seconds=_TRANSFER_SECONDS)

    async def push(self, reference: ImageReference) -> None:
        """Send the image under its tag to its registry. Raises `RegistryRefused`."""

        def push(api: docker.APIClient) -> None:
            _read_stream(api.push(reference.name, tag=reference.tag, stream=True, decode=True), reference)

        await self._call(push, seconds=_TRANSFER_SECONDS)

    async def image(self, name: str) -> ImageFacts:
        """What the image says of itself. Raises `ImageNotFound`."""

        def look(api: docker.APIClient) -> ImageFacts:
            return _facts(_inspect(api, name))

        return await self._call(look)

    async def tag(self, name: str, reference: ImageReference) -> None:
        """Give an image another name."""

        def tag(api: docker.APIClient) -> None:
            api.tag(name, reference.name, reference.tag, force=True)

        await self._call(tag)

    async def remove_image(self, name: str) -> None:
        """Take a name, and with the last one the image, away; absent or still in use is fine."""

        def remove(api: docker.APIClient) -> None:
            try:
                api.remove_image(name, noprune=False)
            except NotFound:
                pass
            except APIError as error:
                if error.status_code != 409:
                    raise

        await self._call(remove)

    async def images(self, labels: Mapping[str, str]) -> list[ImageFacts]:
        """The images that bear all of `labels`."""

        def look(api: docker.APIClient) -> list[ImageFacts]:
            found = api.images(filters={"label": _filters(labels)})
            return [_facts(_inspect(api, each["Id"])) for each in found]

        return await self._call(look)

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerFacts]:
        """The containers, running or not, that bear all of `labels` (an empty value: any)."""

        def look(api: docker.APIClient) -> list[ContainerFacts]:
            found = api.containers(all=True, filters={"label": _filters(labels)})
            return [
                ContainerFacts(
                    id=each["Id"],
                    name=(each.get("Names") or [""])[0].lstrip("/"),
                    state=each.get("State", ""),
                    labels=each.get("Labels") or {},
                )
                for each in found
            ]

        return await self._call(look)

    async def remove(self, container: str) -> None:
        """Kill a container and take it and its volumes away; absent is fine."""

        def remove(api: docker.APIClient) -> None:
            for attempt in range(_REMOVE_ATTEMPTS):
                try:
                    return api.remove_container(container, force=True, v=True)
                except NotFound:
                    return None
                except APIError:
                    # It is just ending, or somebody else removes it: engines refuse both, each in words of its own.
                    if attempt == _REMOVE_ATTEMPTS - 1:
                        raise
                    time.sleep(_REMOVE_PAUSE_SECONDS)
            return None

        await self._call(remove)

    async def _call(self, work: "Callable[[docker.APIClient], _T]", seconds: int = _SHORT_SECONDS) -> _T:
        def run() -> _T:
            try:
                api = docker.APIClient(base_url=self.address, version=API_VERSION, timeout=seconds)
            except DockerException as error:
                raise self._away(error) from error
            try:
                return work(api)
            except NoSuchImage as error:
                raise ImageNotFound(f"The engine has no such image: {error.explanation}. Deploy again.") from error
            except APIError as error:
                raise ContainerFault(f"The container engine refused: {error.explanation or error}.") from error
            except (requests.exceptions.RequestException, DockerException) as error:
                raise self._away(error) from error
            finally:
                api.close()

        return await asyncio.to_thread(run)

    def _away(self, error: Exception) -> EngineMissing:
        return EngineMissing(
            f"The container engine at {self.address} does not answer: {error}. Start it (`podman system service "
            "--time=0`, or Docker), and check that the platform's user may use its socket."
        )


def _inspect(api: docker.APIClient, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = api.inspect_image(name)  # type: ignore[no-untyped-call]
    return found


def _filters(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" if value else name for name, value in labels.items()]


def _facts(found: Mapping[str, Any]) -> ImageFacts:
    config = found.get("Config") or {}
    exposed = [int(port.partition("/")[0]) for port in config.get("ExposedPorts") or {} if not port.endswith("/udp")]
    return ImageFacts(
        id=found["Id"],
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        port=min(exposed, default=None),
        size_bytes=int(found.get("Size") or 0),
        labels=config.get("Labels") or {},
        names=tuple(found.get("RepoTags") or ()),
        digests=tuple(found.get("RepoDigests") or ()),
        created_at=_moment(str(found.get("Created") or "")),
    )


def _moment(text: str) -> float:
    """Unix seconds of RFC 3339 with whatever fraction."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)$", text)
    return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")).timestamp() if found else 0.0


def _read_stream(stream: Iterable[Mapping[str, Any]], reference: ImageReference) -> None:
    """Read a transfer to its end; what goes wrong is told in the stream, not by its status."""
    for each in stream:
        told = each.get("error") or (each.get("errorDetail") or {}).get("message")
        if not told:
            continue
        text = " ".join(str(told).split())
        low = text.lower()
        if "manifest unknown" in low or "not found" in low or "name unknown" in low:
            raise ImageNotFound(f"The registry {reference.host} has no image {reference}: {text}")
        if "unauthorized" in low or "denied" in low or "authentication required" in low:
            raise RegistryRefused(
                f"The registry {reference.host} refused {reference.repository}: {text}. Log the platform's user in "
                f"(`docker login {reference.host}`)."
            )
        raise RegistryRefused(f"{reference} could not be transferred: {text}", code="registry_unreachable")
