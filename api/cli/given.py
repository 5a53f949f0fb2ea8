"""The variables that a command is given: as arguments, in files, on stdin; and which of them are secrets.

Knows KEY=VALUE and what a secret looks like; nothing of what becomes of them.
"""

import getpass
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from api.cli.errors import CliError, ExitCode

_EXAMPLE = "rayfold config set GREETING=hello"
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|SECRETS?|TOKEN|KEY|APIKEY|CREDENTIALS?|DSN)(?:_|$)", re.IGNORECASE
)
_URL_WITH_PASSWORD = re.compile(r"^[a-z][a-z0-9+.-]*://[^/@\s:]*:[^/@\s]+@", re.IGNORECASE)


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE` as (KEY, VALUE). Raises CliError without repeating the value."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        found = f"{text!r}" if text and not equals else "nothing before the ="
        raise CliError(f"expected KEY=VALUE, found {found}", exit_code=ExitCode.USAGE, hint=_EXAMPLE)
    return key, value


def from_lines(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a file, or of stdin for `-`. Raises CliError that names the line and not what it holds."""
    found: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        if not key or not equals:
            raise CliError(
                f"expected KEY=VALUE on each line, found none on line {number} of {path}", exit_code=ExitCode.USAGE
            )
        found[key] = value
    return found


def from_files(pairs: Iterable[str]) -> dict[str, str]:
    """`KEY=PATH` each: the whole file is the value, its last line break left out. Raises CliError."""
    named = dict(pair(text) for text in pairs)
    return {key: _read(Path(path)).removesuffix("\n") for key, path in named.items()}


def typed_in(given: Mapping[str, str]) -> dict[str, str]:
    """`given`, with what is `-` asked for where it cannot be seen: at the terminal unechoed, else the whole of stdin.

    Raises CliError when stdin would have to be read for more than one.
    """
    asked = [key for key, value in given.items() if value == "-"]
    if len(asked) > 1 and not sys.stdin.isatty():
        hint = "give several as KEY=VALUE lines: --file -"
        raise CliError("expected one KEY=- when stdin is no terminal", exit_code=ExitCode.USAGE, hint=hint)
    ask: Callable[[str], str] = _ask if sys.stdin.isatty() else lambda key: _read(Path("-")).removesuffix("\n")
    return {key: ask(key) if key in asked else value for key, value in given.items()}


def secret_text(path: Path | None, what: str) -> str:
    """A secret: the whole of a file that only its owner can read, of stdin for `-`; else asked for, or read from stdin
    where that is no terminal. The last line break is left out. Raises CliError, which never repeats it."""
    if path is None and sys.stdin.isatty():
        return _ask(what)
    path = path or Path("-")
    if str(path) != "-" and path.is_file() and path.stat().st_mode & 0o077:
        raise CliError(
            f"expected {path} to be for its owner only: others can read it",
            exit_code=ExitCode.USAGE,
            hint=f"chmod 600 {path}",
        )
    text = _read(path).removesuffix("\n")
    if not text:
        raise CliError(f"expected {what}, found nothing", exit_code=ExitCode.USAGE)
    return text


def looks_secret(key: str, value: str) -> bool:
    """Whether it probably should not be readable for ever: by its name, or as a URL with a password in it."""
    return bool(_SECRET_NAME.search(key) or _URL_WITH_PASSWORD.match(value))


def _ask(key: str) -> str:
    return getpass.getpass(f"{key}: ")


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}", exit_code=ExitCode.USAGE) from error
    except UnicodeDecodeError as error:
        hint = "a value is text: encode it, for example with base64"
        raise CliError(f"{path} is no UTF-8 text", exit_code=ExitCode.USAGE, hint=hint) from error
