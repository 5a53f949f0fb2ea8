"""Where the platform is: its data directory, its address and the token to speak with it.

Knows the three files a running platform leaves for its users; opens no connection.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode

ENV_DATA = "RAYFOLD_DATA"
ENV_URL = "RAYFOLD_URL"
ENV_TOKEN = "RAYFOLD_TOKEN"  # noqa: S105 - the variable's name, not a token
ENV_TOKEN_FILE = "RAYFOLD_TOKEN_FILE"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class Address:
    """How to reach the API. `gateway_url` is empty for a remote platform; `pid` 0 where it is not known."""

    url: str
    token: str
    gateway_url: str = ""
    pid: int = 0


def default_data_dir() -> Path:
    """The data directory when neither `--data` nor RAYFOLD_DATA says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/rayfold")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "rayfold"


def data_dir(given: Path | None) -> Path:
    """`--data`, else RAYFOLD_DATA, else the default; absolute."""
    chosen = given or (Path(os.environ[ENV_DATA]) if os.environ.get(ENV_DATA) else default_data_dir())
    return chosen.expanduser().absolute()


def find_address(data: Path) -> Address:
    """The address of the platform of `data`, or of the one that RAYFOLD_URL names.

    Raises CliError when there is none, or its token cannot be read.
    """
    url = os.environ.get(ENV_URL, "").rstrip("/")
    if url:
        return Address(url=url, token=_token_from_environment() or _read_token(data))
    running = read_api_file(data)
    if not running:
        raise CliError(
            f"no platform runs here: expected {data / 'api.json'}, found none",
            hint="start it: rayfold up --detach (another place: --data DIR or RAYFOLD_DATA; a remote one: RAYFOLD_URL)",
        )
    token = _token_from_environment() or _read_token(data)
    address = Address(url=running.text("url").rstrip("/"), token=token)
    return Address(
        url=address.url, token=token, gateway_url=running.text("gateway_url").rstrip("/"), pid=running.whole("pid")
    )


def read_api_file(data: Path) -> Document:
    """What the running platform wrote about itself; empty when there is no such file. Raises CliError."""
    path = data / "api.json"
    try:
        return Document(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return Document()
    except PermissionError as error:
        raise _not_yours(path) from error
    except ValueError as error:
        raise CliError(
            f"expected JSON in {path}, found something else", hint="rayfold down, then rayfold up"
        ) from error


def _token_from_environment() -> str:
    token = os.environ.get(ENV_TOKEN, "").strip()
    path = os.environ.get(ENV_TOKEN_FILE, "")
    if token or not path:
        return token
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CliError(
            f"{ENV_TOKEN_FILE} names {path}, which cannot be read: {error.strerror}", exit_code=ExitCode.REFUSED
        ) from error


def _read_token(data: Path) -> str:
    path = data / "tokens" / "admin"
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError as error:
        raise _not_yours(path) from error
    except OSError as error:
        raise CliError(
            f"expected the platform's token in {path}, found none",
            exit_code=ExitCode.REFUSED,
            hint=f"give one with {ENV_TOKEN} or {ENV_TOKEN_FILE}",
        ) from error


def _not_yours(path: Path) -> CliError:
    return CliError(
        f"{path} belongs to another user",
        exit_code=ExitCode.REFUSED,
        hint=f"run as the user that started the platform, or set {ENV_URL} and {ENV_TOKEN_FILE}",
    )
