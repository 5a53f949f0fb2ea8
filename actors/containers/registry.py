"""Asks a registry which digest a tag stands for now, and to forget one, over the distribution API and its tokens.

Nothing is pulled here; credentials come from the platform's user's own Docker configuration and never leave this file.
"""

import asyncio
import base64
import re

import aiohttp
from docker import auth as docker_auth

from actors.containers.errors import ImageNotFound, RegistryRefused
from actors.containers.reference import DOCKER_HUB, ImageReference

_SECONDS = 15.0
_HUB_API = "registry-1.docker.io"
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


async def resolve(reference: ImageReference) -> ImageReference:
    """`reference` pinned to the digest that its tag stands for now; the registry is asked also for one with a digest.

    Raises `ImageNotFound`, `RegistryRefused`.
    """
    digest = _read(reference, await _ask("HEAD", reference, "pull"))
    if reference.digest and digest != reference.digest:
        raise ImageNotFound(f"Expected {reference} from its registry, found {digest}. Name the digest it has.")
    return ImageReference(host=reference.host, repository=reference.repository, digest=digest)


async def remove(reference: ImageReference) -> None:
    """Have the registry forget the image of this digest, and the tags that stand for it; absent is fine.

    Raises `RegistryRefused`, also where the registry is set up to delete nothing.
    """
    status, _ = await _ask("DELETE", reference, "delete")
    if status in (404, *range(200, 300)):
        return
    if status == 405:
        raise RegistryRefused(
            f"The registry {reference.host} deletes nothing, so its old images stay. Allow it "
            "(REGISTRY_STORAGE_DELETE_ENABLED=true for docker-registry); they go with the next round then."
        )
    if status in (401, 403):
        raise RegistryRefused(
            f"The registry {reference.host} does not let the platform delete in {reference.repository}, so old images "
            "stay. Give the platform's user that right, or delete them there."
        )
    raise RegistryRefused(
        f"Expected the registry {reference.host} to delete {reference}, found HTTP status {status}. The next round "
        "tries again."
    )


async def _ask(method: str, reference: ImageReference, action: str) -> tuple[int, str]:
    """Status and digest that the registry answers, its tokens asked for `action`. Raises `RegistryRefused`."""
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    scheme = "http" if reference.plain_http else "https"
    host = _HUB_API if reference.host == DOCKER_HUB else reference.host
    url = f"{scheme}://{host}/v2/{reference.repository}/manifests/{reference.digest or reference.tag}"
    headers = {"Accept": _MANIFESTS}
    try:
        login = await asyncio.to_thread(_login_of, reference.host)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=not reference.plain_http) as session:
            async with session.request(method, url, headers=headers, allow_redirects=True) as answer:
                if answer.status != 401:
                    return answer.status, answer.headers.get("Docker-Content-Digest", "")
                challenge = answer.headers.get("WWW-Authenticate", "")
            headers["Authorization"] = await _authorization(session, challenge, login, reference, action)
            async with session.request(method, url, headers=headers, allow_redirects=True) as answer:
                return answer.status, answer.headers.get("Docker-Content-Digest", "")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        told = str(error) or type(error).__name__
        raise RegistryRefused(
            f"The registry {reference.host} does not answer: {told}. Check the image's host and port.",
            code="registry_unreachable",
        ) from error


def _login_of(host: str) -> str:
    """`Basic …` as the platform's user has it in ~/.docker/config.json, or nothing."""
    found = docker_auth.resolve_authconfig(docker_auth.load_config(), None if host == DOCKER_HUB else host)
    if not found or not found.get("username"):
        return ""
    pair = f"{found['username']}:{found.get('password', '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def _authorization(
    session: aiohttp.ClientSession, challenge: str, login: str, reference: ImageReference, action: str
) -> str:
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic" and login:
        return login
    asked = dict(_CHALLENGE.findall(rest))
    realm = asked.get("realm", "")
    if kind.lower() != "bearer" or not realm.startswith("http"):
        raise _not_allowed(reference)
    if login and not realm.startswith("https://") and not reference.plain_http:
        raise RegistryRefused(f"The registry {reference.host} wants its password sent without TLS, to {realm[:100]}.")
    query = {
        "scope": f"repository:{reference.repository}:{action}",
        **{k: v for k, v in asked.items() if k == "service"},
    }
    headers = {"Authorization": login} if login else {}
    async with session.get(realm, params=query, headers=headers) as answer:
        if answer.status != 200:
            raise _not_allowed(reference)
        given = await answer.json(content_type=None)
    token = given.get("token") or given.get("access_token") if isinstance(given, dict) else None
    if not token:
        raise _not_allowed(reference)
    return f"Bearer {token}"


def _read(reference: ImageReference, answer: tuple[int, str]) -> str:
    status, digest = answer
    if status in (401, 403):
        raise _not_allowed(reference)
    if status == 404:
        raise ImageNotFound(f"The registry {reference.host} has no image {reference}. Check its name and tag.")
    if status != 200 or not _DIGEST.match(digest):
        raise RegistryRefused(
            f"Expected the digest of {reference} from {reference.host}, found HTTP status {status}. Try again."
        )
    return digest


def _not_allowed(reference: ImageReference) -> RegistryRefused:
    return RegistryRefused(
        f"The registry {reference.host} does not let the platform read {reference.repository}. Log the platform's user "
        f"in (`docker login {reference.host}` or `podman login`), or correct the name: a registry says the same of an "
        "image that is not there."
    )
