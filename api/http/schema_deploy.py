"""The bodies about what is deployed and where its source is. Shapes only, as in `schema`."""

from typing import Annotated, Literal

from pydantic import Field

from api.http.schema import Body, Reason, Sha256


class UploadSource(Body):
    """A tar or tar.gz that was put to `uploads/{sha256}` before. `commit` (full, `-dirty` behind it for a tree with
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
