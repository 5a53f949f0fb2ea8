"""The bodies about what is deployed and where its source is. Shapes only, as in `schema`."""

from typing import Annotated, Literal

from pydantic import Field

from api.http.parts import MOST_PARTS, PART_BYTES
from api.http.schema import Body, Reason, Sha256, View


class UploadPart(Body):
    """Some of an archive's bytes, one behind the other, by their sha256."""

    sha256: Sha256
    size_bytes: int = Field(ge=1, le=PART_BYTES)


class JoinUpload(Body):
    """An archive's sha256, and the parts that it is, in order; one may be there several times."""

    sha256: Sha256
    parts: list[UploadPart] = Field(min_length=1, max_length=MOST_PARTS)


class PartsKept(View):
    """How many parts were kept, and how large they are together."""

    team: str
    parts: int
    size_bytes: int


class UploadJoined(View):
    """`missing`: put these parts and ask again; with none missing the upload is here. `size_bytes`: of what was joined
    now, else null."""

    team: str
    sha256: str
    size_bytes: int | None
    missing: list[str]


class UploadSource(Body):
    """A tar or tar.gz that was uploaded before, whole or in parts. `commit` (full, `-dirty` behind it for a tree with
    changes) and `author` say what it was made of: the sender's word, which is shown and not checked."""

    kind: Literal["upload"] = "upload"
    digest: Sha256
    subdir: str = Field(default="", max_length=512)
    commit: str = Field(default="", pattern=r"^(([0-9a-f]{40}|[0-9a-f]{64})(-dirty)?)?$")
    author: str = Field(default="", max_length=200)


class GitSource(Body):
    """`ref`: branch, tag or commit; empty is the remote's HEAD."""

    kind: Literal["git"] = "git"
    url: str = Field(min_length=1, max_length=2048)
    ref: str = Field(default="", max_length=255)
    subdir: str = Field(default="", max_length=512)


class SvnSource(Body):
    """`revision`: its number, `12` or `r12`; empty is the newest. A branch or tag is a directory of the URL."""

    kind: Literal["svn"] = "svn"
    url: str = Field(min_length=1, max_length=2048)
    revision: str = Field(default="", max_length=16)
    subdir: str = Field(default="", max_length=512)


class ImageSource(Body):
    """A container image: `host/name:tag`, pinned to the digest it has now, or `host/name@sha256:…`."""

    kind: Literal["image"] = "image"
    image: str = Field(min_length=1, max_length=512)


Source = Annotated[UploadSource | GitSource | SvnSource | ImageSource, Field(discriminator="kind")]


class Deploy(Body):
    """`create`: make the app and the component when they are not there."""

    source: Source
    reason: Reason = ""
    create: bool = True
