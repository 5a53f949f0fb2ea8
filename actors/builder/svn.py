"""Exports one revision of a Subversion URL, trusting neither the URL nor what is in the repository.

Knows svn's options and its traps; it must not know what is built from the tree.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.builder.errors import SourceError
from actors.builder.model import BuildLimits
from actors.builder.remote import USER_AND_QUERY, check_authority, check_text, passed_on, split
from actors.builder.sandbox import LineSink, run_command

_SCHEMES = ("https", "http", "svn", "svn+ssh", "file")
_REVISION = re.compile(r"r?([1-9][0-9]{0,9})\Z")
_PASSED_ON = ("PATH", "HOME", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR")
_MOST_LINES = 10_000


class _Cause(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    pattern: str
    told: str


# In this order: a repository that asks who we are, or lacks a path, has been reached.
_CAUSES = (
    _Cause(
        code="svn_auth_refused",
        pattern=r"E170001|E215004|E175013|E230001|Permission denied|Host key verification failed",
        told="The repository does not let the platform's user read it. Have svn store that user's password once (`svn "
        "info URL` as that user on the builder's machine), or use svn+ssh with a key of that user.",
    ),
    _Cause(code="svn_revision_unknown", pattern=r"E160006", told="There is no such revision. Correct --ref."),
    _Cause(
        code="svn_not_found",
        pattern=r"E170000|E160013|E180001|E200009|E210005|E170011",
        told="There is no such repository, or no such path in that revision. Check the URL.",
    ),
    _Cause(
        code="svn_unreachable",
        pattern=r"E170013|E210002|E731001|E670002|E000111|E000110|E175012|Connection refused|Could not resolve",
        told="The host does not answer from the builder. Check its name and port, and the builder's network or proxy.",
    ),
)


class SvnRevision(msgspec.Struct, frozen=True, kw_only=True):
    """What was exported: the revision that last changed the tree, as `r12`, and who made it. `notes`: left out."""

    commit: str
    author: str
    notes: tuple[str, ...] = ()


def check_url(url: str) -> str:
    """`url` if it may be handed to svn; raises `SourceError` that says what to use instead."""
    check_text(url, _refused)
    parts = split(url, _refused)
    if parts.scheme not in _SCHEMES:
        raise _refused(url, f"the scheme {parts.scheme!r} is not allowed")
    credentials = SourceError(
        "The Subversion URL holds credentials, or a query that could hold some, which would end up in the log of "
        "events. Take them out of the URL (and replace the password: it has been sent in clear); have svn store "
        "them for the platform's user instead.",
        code="svn_url_has_credentials",
    )
    check_authority(url, parts, ssh="svn+ssh", refused=_refused, credentials=credentials)
    return url


def check_revision(text: str) -> str:
    """The number of a revision ("" for the newest); raises `SourceError`."""
    if not text or text.upper() == "HEAD":
        return ""
    match = _REVISION.match(text)
    if match is None:
        raise SourceError(
            f"Expected the number of a revision, such as 12 or r12, found {text[:100]!r}. A branch or tag is a "
            "directory: name it in the URL.",
            code="svn_revision_refused",
        )
    return match[1]


def _refused(url: str, why: str) -> SourceError:
    return SourceError(
        "Expected a Subversion URL like https://host/repository/trunk, svn://host/path, svn+ssh://user@host/path or "
        f"file:///path, found {USER_AND_QUERY.sub('…', url)[:200]!r}: {why}.",
        code="svn_url_refused",
    )


class SvnSource:
    """Exports into one directory. Passwords come from what svn has stored for the platform's user, never from here."""

    def __init__(self, *, home: Path, limits: BuildLimits, environ: Mapping[str, str], sink: LineSink) -> None:
        self._home = home
        self._limits = limits
        self._sink = sink
        ssh = "ssh -q -o BatchMode=yes -o ConnectTimeout=20"
        self._env = {**passed_on(environ, _PASSED_ON), "LC_ALL": "C.UTF-8", "SVN_SSH": ssh}

    async def fetch(self, url: str, ref: str, into: Path) -> SvnRevision:
        """Export revision `ref` (empty: the newest, found out once) of `url` into the new directory `into`."""
        check_url(url)
        revision = check_revision(ref) or await self._item("revision", url, "HEAD")
        changed = await self._item("last-changed-revision", url, revision)
        author = await self._item("last-changed-author", url, revision)
        # Externals may point anywhere, to files of this machine too; they are named, not fetched.
        await self._must(["export", "--quiet", "--ignore-externals", "--", _pegged(url, revision), str(into)], url)
        status, lines = await self._svn(["propget", "--recursive", "svn:externals", "--", _pegged(url, revision)])
        named = sum(1 for line in lines if line.strip()) if status == 0 else 0
        notes = (f"svn:externals name {named} more directories, which are not fetched: copy them in",) if named else ()
        return SvnRevision(commit=f"r{changed}", author=author, notes=notes)

    async def _item(self, item: str, url: str, revision: str) -> str:
        lines = await self._must(["info", "--show-item", item, "--no-newline", "--", _pegged(url, revision)], url)
        return lines[0].strip() if lines else ""

    async def _must(self, arguments: list[str], url: str) -> list[str]:
        status, lines = await self._svn(arguments)
        if status == 0:
            return lines
        await self._sink(lines[-20:])
        told = next((line for line in lines if line.startswith("svn: E")), " ".join(lines[-1:])) or "no reason given"
        for cause in _CAUSES:
            if any(re.search(cause.pattern, line) for line in lines):
                raise SourceError(
                    f"svn cannot read {url}: {told}. {cause.told}", code=cause.code, lines=tuple(lines[-10:])
                )
        raise SourceError(
            f"svn cannot read {url}: {told}. Run `svn info` as the platform's user on the builder's machine.",
            code="svn_failed",
            lines=tuple(lines[-10:]),
        )

    async def _svn(self, arguments: list[str]) -> tuple[int, list[str]]:
        lines: list[str] = []

        async def keep(more: list[str]) -> None:
            lines.extend(more[: max(0, _MOST_LINES - len(lines))])

        command, *rest = arguments
        argv = ["svn", command, "--non-interactive", *rest]
        status = await run_command(
            argv, cwd=self._home, env=self._env, limits=self._limits, user=None, sink=keep, network=True
        )
        return status, lines


def _pegged(url: str, revision: str) -> str:
    """The URL in that revision; also where it has an @ of its own."""
    return f"{url}@{revision}"
