"""What git and Subversion share when they reach a remote: which URLs may be handed to them, and what they are told.

Knows URLs and environments; nothing of either program's options or of what is fetched.
"""

import re
from collections.abc import Callable, Collection, Mapping
from urllib.parse import SplitResult, urlsplit

from actors.builder.errors import SourceError

USER_AND_QUERY = re.compile(r"//.*@|[?#].*")  # where credentials stand, in URLs however broken
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")

Refused = Callable[[str, str], SourceError]
"""The error for a URL, of which it shows no credentials, and why it is refused."""


def check_text(url: str, refused: Refused) -> None:
    """Raises what `refused` gives for a URL that is no single word, or that a program would take for an option."""
    if not url or url.startswith("-") or _CONTROL.search(url):
        raise refused(url, "it is empty, starts with '-' or holds spaces or control characters")


def split(url: str, refused: Refused) -> SplitResult:
    """The parts of a URL. Raises what `refused` gives for one that has none."""
    try:
        parts = urlsplit(url)
        # Asked for here: they are what is not well formed.
        _ = parts.hostname, parts.username, parts.password
    except ValueError as error:
        raise refused("(unreadable)", str(error)) from error
    return parts


def check_authority(url: str, parts: SplitResult, *, ssh: str, refused: Refused, credentials: SourceError) -> None:
    """Only the scheme `ssh` may name a user. Raises `credentials` where some stand, or could; else what `refused`
    gives."""
    host, user = parts.hostname, parts.username
    if parts.password is not None or (user is not None and parts.scheme != ssh) or parts.query or parts.fragment:
        raise credentials
    if parts.scheme != "file" and (not host or host.startswith("-")):
        raise refused(url, "it names no host")
    if user is not None and user.startswith("-"):
        raise refused(url, "its user starts with '-'")


def passed_on(environ: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """The variables of these names, and those that name proxies."""
    passed = {name: environ[name] for name in names if name in environ}
    return passed | {name: value for name, value in environ.items() if name.lower() in _PROXIES}
