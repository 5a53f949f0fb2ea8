"""Fetches one commit from a git URL, trusting neither the URL nor what is in the repository.

Knows git's options and its traps; it must not know what is built from the tree.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.builder.access import SSH, Access, Handed, handed, no_access, pin_hint, refused_by_host
from actors.builder.errors import SourceError
from actors.builder.model import BuildLimits
from actors.builder.remote import USER_AND_QUERY, check_authority, check_text, passed_on, split
from actors.builder.sandbox import LineSink, run_command
from actors.supervisor.orders import SourceAccess

_SCP_LIKE = re.compile(r"^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^:].*\Z")
_REF = re.compile(r"^(?!.*(\.\.|//|@\{|\.lock$|/$|\.$))[A-Za-z0-9_][A-Za-z0-9._/+@#-]{0,249}\Z")
_COMMIT = re.compile(r"^[0-9a-f]{7,64}\Z")
_FULL_COMMIT = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_SCHEMES = ("https", "http", "ssh", "file")
_SHOWN_REFS = 8
_PASSED_ON = ("PATH", "HOME", "SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE")

# In this order: a host whose key is not known is not asked anything, one that asks for a name has been reached, and
# one that says 403 knows who asks.
_CAUSES = (
    (
        "ssh_missing",
        r"cannot run ssh\b|\bssh: (?:command )?not found",
        "There is no ssh on the builder's machine: apt-get install openssh-client, or use an https URL.",
    ),
    (
        "git_host_key_changed",
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key for \S+ has changed",
        "The host shows another key than the one that is known: it was given a new one, or somebody stands in between. "
        "Ask whoever runs it, compare, and only then: {pin}",
    ),
    (
        "git_host_key_unknown",
        r"Host key verification failed|host key is known for",
        "Nobody has said yet by which key this host is known. Compare what this prints with what the host publishes: "
        "{pin}",
    ),
    (
        "git_auth_refused",
        r"could not read Username|Authentication failed|Permission denied|error: 40[13]|terminal prompts disabled",
        "{refused}",
    ),
    (
        "git_unreachable",
        r"Could not resolve host|Could not resolve hostname|Connection refused|Failed to connect|Connection timed out|"
        r"Network is unreachable|No route to host",
        "The host does not answer from the builder. Check its name and port, and the builder's network or proxy.",
    ),
    (
        "git_not_found",
        r"not found|does not appear to be a git repository|does not exist",
        "There is no such repository, or its host says so to those who may not see it. Check the URL. {refused}",
    ),
)

# A file of our own instead of the system's and the user's: credential helpers, aliases and URL rewrites there are
# not for other people's repositories. safe.directory must stand in a file: git does not pass -c to the far side of a
# local fetch. Hooks, filters and external transports stay off whatever a repository says.
_CONFIG = """[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tfsmonitor = false
\tprotectHFS = true
\tprotectNTFS = true
[protocol "ext"]
\tallow = never
[submodule]
\trecurse = false
[credential]
\thelper =
[advice]
\tdetachedHead = false
[gc]
\tauto = 0
"""


class GitCommit(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked out: full commit id, author as `Name <mail>`, first line of the message."""

    commit: str
    author: str
    subject: str


def check_url(url: str) -> str:
    """`url` if it may be handed to git; raises `SourceError` (code git_url_refused) that says what to use instead."""
    check_text(url, _refused)
    if "::" in url.split("/", 1)[0]:
        raise _refused(url, "external transports (ext::, fd::, …) run commands and are never allowed")
    if url.startswith("/"):
        return url
    if "://" not in url:
        if _SCP_LIKE.match(url):
            return url
        raise _refused(url, "it is none of the forms above")
    return _check_scheme(url)


def _check_scheme(url: str) -> str:
    parts = split(url, _refused)
    if parts.scheme not in _SCHEMES:
        raise _refused(f"{parts.scheme}://…", f"the transport {parts.scheme!r} is not allowed")
    credentials = SourceError(
        "The git URL holds credentials, or a query that could hold some, which would end up in the log of events. Take "
        "them out of the URL (and replace the token: it has been sent in clear), and keep the new one: rayfold "
        "credentials add NAME --url PREFIX",
        code="git_url_has_credentials",
    )
    check_authority(url, parts, ssh="ssh", refused=_refused, credentials=credentials)
    return url


def _refused(url: str, why: str) -> SourceError:
    return SourceError(
        "Expected a git URL like https://host/path.git, ssh://git@host/path.git, git@host:path.git, file:///path or an "
        f"absolute path, found {USER_AND_QUERY.sub('…', url)[:200]!r}: {why}.",
        code="git_url_refused",
    )


def check_ref(ref: str) -> str:
    """`ref` if it can be the name of a branch, tag or commit (empty: the remote's HEAD); raises `SourceError`."""
    if ref and not _REF.match(ref):
        raise SourceError(
            f"Expected the name of a branch or tag, or a commit id, found {ref[:200]!r}.", code="git_ref_refused"
        )
    return ref


class GitSource:
    """Fetches into one directory. `home` holds git's own configuration file and is the caller's to remove; `access`
    says what each URL is read with, also those of submodules."""

    def __init__(
        self,
        *,
        home: Path,
        limits: BuildLimits,
        environ: Mapping[str, str],
        sink: LineSink,
        access: Access = no_access,
    ) -> None:
        self._home = home
        self._access = access
        self._config = home / "gitconfig"
        self._limits = limits
        self._sink = sink
        self._env = {
            **passed_on(environ, _PASSED_ON),
            "LANG": "C.UTF-8",
            "GIT_CONFIG_GLOBAL": str(self._config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_SSH_COMMAND": " ".join(SSH),
            "GIT_LFS_SKIP_SMUDGE": "1",
        }

    async def fetch(self, url: str, ref: str, into: Path) -> GitCommit:
        """Check out `ref` of `url` into the new directory `into`, without its history. Raises `SourceError`."""
        check_url(url)
        check_ref(ref)
        self._config.write_text(_CONFIG)
        await self._git(["init", "--quiet", "--template=", "--", str(into)], cwd=self._config.parent)
        access = await self._access(url)
        with handed(url, access, self._home) as given:
            self._config.write_text(_CONFIG + given.config)
            try:
                commit = await self._get(url, ref, into, access, given)
            finally:
                self._config.write_text(_CONFIG)
        await self._must(["checkout", "--quiet", "--detach", commit, "--"], into, f"cannot check out {commit}")
        status, lines = await self._git(["log", "-1", "--format=%H%n%an <%ae>%n%s"], cwd=into)
        if status != 0 or len(lines) < 2:
            raise SourceError(f"git log says nothing about {commit}: {' '.join(lines)}.", code="git_failed")
        return GitCommit(commit=lines[0], author=lines[1], subject="\n".join(lines[2:3]))

    async def gitlink(self, root: Path, path: str) -> str | None:
        """The commit that the checkout `root` names for the submodule at `path`; None when it is no submodule there."""
        status, lines = await self._git(["ls-tree", "HEAD", "--", f":(literal){path}"], cwd=root)
        parts = lines[0].split() if status == 0 and lines else []
        return parts[2] if len(parts) > 2 and parts[:2] == ["160000", "commit"] else None

    async def config_of(self, root: Path, file: str, pattern: str) -> list[str]:
        """Lines `key value` of a file in git's own format; empty when it holds none or does not parse."""
        status, lines = await self._git(["config", "--no-includes", "-f", file, "--get-regexp", pattern], cwd=root)
        return lines if status == 0 else []

    async def _get(self, url: str, ref: str, into: Path, access: SourceAccess, given: Handed) -> str:
        """Fetch as little as the remote allows; the commit to check out."""
        shallow = ["fetch", "--quiet", "--no-tags", "--depth=1", "--", url, ref or "HEAD"]
        status, lines = await self._git(shallow, cwd=into, given=given)
        if status == 0:
            return "FETCH_HEAD"
        no_such_ref = any("find remote ref" in line or "not our ref" in line for line in lines)
        if not no_such_ref and not any("shallow" in line or "dumb http" in line for line in lines):
            raise self._failure(url, lines, access)
        # The remote cannot serve this commit alone, or has no depth: take everything and look.
        whole = ["fetch", "--quiet", "--", url, "+refs/heads/*:refs/remotes/o/*", "+refs/tags/*:refs/tags/*"]
        status, lines = await self._git(whole, cwd=into, given=given)
        if status != 0:
            raise self._failure(url, lines, access)
        for candidate in ([ref] if _COMMIT.match(ref) else []) + [f"refs/remotes/o/{ref}", f"refs/tags/{ref}"]:
            status, found = await self._git(["rev-parse", "--verify", "--quiet", f"{candidate}^{{commit}}"], cwd=into)
            if status == 0 and found and _FULL_COMMIT.match(found[0]):
                return found[0]
        raise await self._unknown_ref(ref, into)

    async def _unknown_ref(self, ref: str, into: Path) -> SourceError:
        _, names = await self._git(["for-each-ref", "--format=%(refname:lstrip=2)"], cwd=into)
        known = sorted(name.removeprefix("o/") for name in names)
        more = f" and {len(known) - _SHOWN_REFS} more" if len(known) > _SHOWN_REFS else ""
        held = (", ".join(known[:_SHOWN_REFS]) + more) or "no branches or tags"
        return SourceError(
            f"Expected a branch, tag or commit called {ref!r}; the repository has {held}. Correct --ref.",
            code="git_ref_unknown",
        )

    @staticmethod
    def _failure(url: str, lines: list[str], access: SourceAccess) -> SourceError:
        told = next((line for line in lines if line.startswith(("fatal:", "ssh:", "error:"))), " ".join(lines[:1]))
        code, what_to_do = next(
            ((code, text) for code, pattern, text in _CAUSES if any(re.search(pattern, line) for line in lines)),
            ("git_failed", "Check the URL. {refused}"),
        )
        what_to_do = what_to_do.format(pin=pin_hint(url), refused=refused_by_host(url, access))
        return SourceError(
            f"git cannot fetch {url}: {told or 'no reason given'}. {what_to_do}", code=code, lines=tuple(lines[-10:])
        )

    async def _must(self, arguments: list[str], cwd: Path, what: str) -> list[str]:
        status, lines = await self._git(arguments, cwd=cwd)
        if status != 0:
            raise SourceError(f"git {what}: {' '.join(lines[-3:])}.", code="git_failed", lines=tuple(lines[-10:]))
        return lines

    async def _git(self, arguments: list[str], *, cwd: Path, given: Handed | None = None) -> tuple[int, list[str]]:
        lines: list[str] = []

        async def keep(more: list[str]) -> None:
            lines.extend(more[: max(0, 10_000 - len(lines))])

        given = given or Handed()
        status = await run_command(
            ["git", *arguments], cwd=cwd, env={**self._env, **given.env}, limits=self._limits, user=None, sink=keep,
            masking=given.masking,
        )  # fmt: skip
        if status != 0 and "rev-parse" not in arguments:
            await self._sink(lines[-20:])
        return status, lines
