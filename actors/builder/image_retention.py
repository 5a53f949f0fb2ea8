"""Removes images that no kept artifact refers to, from the registry that they were pushed to and from the engine.

An image goes before the manifest that is its only record; what cannot be removed now keeps its record. Knows engine and
registry, not who refers to what.
"""

from collections.abc import Collection

from actors.builder.retention import ImagesGone, InUse
from actors.containers.engine import BUILD_LABEL, HOME_LABEL, SERVICE_LABEL, ContainerEngine, ImageFacts
from actors.containers.errors import ContainerFault, ImageNotFound, ImageRefused
from actors.containers.reference import parse_reference
from actors.containers.registry import remove
from actors.containers.settings import ContainerSettings
from events.failpoints import failpoint

OWN = "localhost/rayfold/"
"""What the platform's own names in an engine begin with: SERVICE:BUILD, and SERVICE:latest."""


async def remove_images(
    settings: ContainerSettings,
    engine: ContainerEngine,
    references: Collection[str],
    *,
    home: str,
    in_use: InUse,
    before: float,
) -> ImagesGone:
    """Remove those images of `references` that no build may be about to refer to again. Raises nothing of its own."""
    gone, told = await _from_registry(settings, references, in_use)
    try:
        gone |= await _from_engine(engine, references, home=home, in_use=in_use, before=before)
    except ContainerFault as error:
        told = told or str(error)
    return ImagesGone(references=frozenset(gone), told=told)


async def _from_registry(
    settings: ContainerSettings, references: Collection[str], in_use: InUse
) -> tuple[set[str], str]:
    """What went, and why the rest did not: the first refusal ends it, for the others would be refused alike."""
    gone: set[str] = set()
    prefix = f"{settings.registry}/"
    for text in sorted(references) if settings.registry else ():
        if not text.startswith(prefix):
            continue
        try:
            reference = parse_reference(text)
            if not reference.digest or reference.name.removeprefix(prefix) in in_use.building:
                continue
            await remove(reference)
        except ImageRefused:
            continue
        except ContainerFault as error:
            return gone, str(error)
        gone.add(text)
        failpoint("builder-image-removed")
    return gone, ""


async def _from_engine(
    engine: ContainerEngine, references: Collection[str], *, home: str, in_use: InUse, before: float
) -> set[str]:
    """Take away images known by their id only, and the cached ones of components that are no more."""
    for image in await engine.images({HOME_LABEL: home}):
        service = image.labels.get(SERVICE_LABEL, "")
        if image.created_at >= before or BUILD_LABEL not in image.labels or service in in_use.building_services:
            continue
        pulled = {*image.digests} & {*references}
        if image.id in references or pulled or service not in in_use.services:
            await _take_away(engine, image, pulled)
    left = {image.id for image in await engine.images({HOME_LABEL: home})}
    return {text for text in references if text.startswith("sha256:") and text not in left}


async def _take_away(engine: ContainerEngine, image: ImageFacts, pulled: Collection[str]) -> None:
    """By all the names that the platform gave it; one that a container uses stays, and goes in a later round."""
    for name in [*pulled, *(name for name in image.names if name.startswith(OWN))]:
        await engine.remove_image(name)
    try:
        left = await engine.image(image.id)
    except ImageNotFound:
        return
    if not left.names:
        await engine.remove_image(image.id)
