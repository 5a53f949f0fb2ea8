"""Names of images: what is accepted, and what the short forms stand for. Pure text; asks no registry."""

import re

import msgspec

from actors.containers.errors import ImageRefused

DOCKER_HUB = "docker.io"
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.?)+(?::[0-9]{1,5})?\Z")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_LONGEST = 512
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class ImageReference(msgspec.Struct, frozen=True, kw_only=True):
    """`host/repository:tag@digest`. A digest, where there is one, is what counts."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag and not self.digest else ""
        return f"{self.name}{tag}{'@' + self.digest if self.digest else ''}"

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    @property
    def plain_http(self) -> bool:
        """Whether the registry is spoken to without TLS: only on this machine, as Docker does it."""
        return self.host.rpartition(":")[0] in _LOOPBACK or self.host in _LOOPBACK


def parse_reference(text: str) -> ImageReference:
    """Read `[host/]repository[:tag][@sha256:…]`; without tag and digest the tag is `latest`, without a host Docker Hub.

    Raises `ImageRefused`.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.match(digest):
        raise _refused(text, "after @ comes sha256: and 64 hex digits")
    name, tag = rest, ""
    if ":" in rest.rpartition("/")[2]:
        name, _, tag = rest.rpartition(":")
        if not _TAG.match(tag):
            raise _refused(text, "a tag has letters, digits, '.', '_' and '-'")
    host, slash, repository = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, repository = DOCKER_HUB, name if slash else f"library/{name}"
    if len(text) > _LONGEST or not _HOST.match(host) or not all(_PART.match(part) for part in repository.split("/")):
        raise _refused(text, "a repository's name has lower-case letters, digits and '.', '_', '-', '/' between them")
    return ImageReference(host=host, repository=repository, tag="" if digest else tag or "latest", digest=digest)


def _refused(text: str, why: str) -> ImageRefused:
    return ImageRefused(
        f"Expected an image such as host:5000/team/app:1.2 or nginx@sha256:…, found {text[:200]!r}: {why}."
    )
