"""Recognises the usual causes of a failed command in what it wrote, and says what to do about each.

Text in, a stable code and a sentence out; it must not know which language or tool was run.
"""

import re
from collections.abc import Iterable

import msgspec

_KILLED = 128 + 9
_FILE_TOO_BIG = 128 + 25


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A recognised cause: the code, and a sentence with the fix; `{0}` is what the pattern caught."""

    code: str
    pattern: str
    told: str


# The first that is found in any line wins: what makes everything else fail too (space, memory) comes first, and a
# registry that does not answer before what it is then said not to have.
CAUSES = (
    Cause(
        code="disk_full",
        pattern=r"no space left on device|ENOSPC|disk quota exceeded",
        told="The builder's disk is full. Free space there (`df -h`, `df -i`) and deploy again.",
    ),
    Cause(
        code="out_of_memory",
        pattern=r"heap out of memory|MemoryError|cannot allocate memory|OutOfMemoryError|insufficient memory for the "
        r"Java|out of memory|ENOMEM|std::bad_alloc",
        told="The build needed more memory than it may have. Build less at once (for Node: NODE_OPTIONS="
        "--max-old-space-size=2048 in the build script; for a compiler: fewer jobs).",
    ),
    Cause(
        code="too_many_processes",
        pattern=r"resource temporarily unavailable|fork: retry|can't start new thread|EAGAIN|unable to create native "
        r"thread|cannot fork",
        told="The build started more processes or threads than it may have. Lower the number of parallel jobs.",
    ),
    Cause(
        code="file_too_big",
        pattern=r"file too large|EFBIG|file size limit exceeded",
        told="The build wrote a file larger than it may. Do not make such a file while building.",
    ),
    Cause(
        code="native_library_missing",
        pattern=r"(?:fatal error: )?(\S+\.h): No such file|(pg_config) executable not found|(mysql_config).*not found|"
        r"can't find header files? for (\w+)|mkmf\.rb can't find|cannot find -l(\S+)|Package '?(\S+?)'? was not found "
        r"in the pkg-config|command '?(gcc|cc|g\+\+|make)'? failed: No such|(gyp) ERR! find Python|"
        r"not found: (make)|(shared libraries): ",
        told="A package wants to be compiled and a library or tool of the system is missing ({0}). Choose a version "
        "with a ready-made wheel or binary, or install the library's -dev package on the builder's machine (apt-get "
        "install build-essential, and for example libpq-dev for pg_config).",
    ),
    Cause(
        code="version_missing",
        pattern=r"requires a different Python|Unsupported engine|EBADENGINE|engine \"node\" is incompatible|"
        r"requires-python|requires go >= (\S+)|does not satisfy that requirement|your php version \((\S+?)[;)]|"
        r"Your Ruby version is (\S+),|release version (\d+) not supported|invalid target release: (\S+)|"
        r"(?:source|target) option (\d+) is no longer supported",
        told="A dependency or the project asks for another version of the language than the one that builds. Name a "
        "version that is installed in the language's own file (.python-version, engines, go.mod, composer.json, "
        ".ruby-version, system.properties), or choose dependencies that fit.",
    ),
    Cause(
        code="checksum_mismatch",
        pattern=r"DO NOT MATCH THE HASHES|EINTEGRITY|checksum mismatch|integrity check failed|checksum does not match|"
        r"hash mismatch",
        told="What the registry sent is not what the lock file recorded. If you did not replace it, be careful; else "
        "lock again and commit the lock file.",
    ),
    Cause(
        code="package_auth_refused",
        pattern=r"(?:HTTP|status|code|error)\D{0,20}\b40[13]\b|\b40[13] (?:Client Error|Unauthorized|Forbidden)|"
        r"E40[13]\b|authentication required|Not authorized|ENEEDAUTH|could not authenticate",
        told="The package registry refused the build. Check the token or password (a secret variable of the "
        "component, read by .npmrc, pip's index URL or auth.json) and whether it may read this package.",
    ),
    Cause(
        code="registry_unreachable",
        pattern=r"ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|Connection refused|Could not resolve host|Temporary "
        r"failure in name resolution|Name or service not known|Network is unreachable|no such host|"
        r"connection timed out|UnknownHostException|ConnectException|Failed to establish a new "
        r"connection|Failed to open TCP connection",
        told="The package registry cannot be reached from the builder. Deploy again when it can; behind a proxy set "
        "HTTPS_PROXY for the platform, and for another registry its URL (PIP_INDEX_URL, npm_config_registry, GOPROXY).",
    ),
    Cause(
        code="package_unknown",
        pattern=r"No matching distribution found for (\S+)|E404|404 Not Found|npm error 404|could not find gem '?(\S+)|"
        r"(?:package|module) (\S+) could not be found|Could not find artifact (\S+)|notarget|ERR_PNPM_FETCH_404|"
        r"unknown revision (\S+)|Couldn't find (?:any versions for|package) \"?([^\s\"]+)",
        told="The registry has no such package or version ({0}). Check the spelling and the version, and that a "
        "private package's registry is set.",
    ),
)


def diagnose(status: int, lines: Iterable[str]) -> tuple[str, str] | None:
    """The code and the sentence for a command that ended with `status` and wrote `lines`; None: nothing usual."""
    texts = list(lines)
    for cause in CAUSES:
        pattern = re.compile(cause.pattern, re.IGNORECASE)
        for text in texts:
            if found := pattern.search(text):
                caught = next((group for group in found.groups() if group), found[0])
                return cause.code, cause.told.format(caught[:80])
    return _by_status(status)


def _by_status(status: int) -> tuple[str, str] | None:
    code = {_KILLED: "out_of_memory", _FILE_TOO_BIG: "file_too_big"}.get(status)
    return next(((cause.code, cause.told) for cause in CAUSES if cause.code == code), None)
