"""Reads `rainbondfile`, in which sources written for Rainbond say their language, command and ports.

Text in, settings and warnings out; it must not know what is done with them. `rayfold.toml` wins where both speak.
"""

import msgspec
import yaml

from actors.builder.errors import SettingsError
from actors.builder.model import ComponentSettings

FILE = "rainbondfile"
_LANGUAGES = {
    "dockerfile": "dockerfile",
    "golang": "go",
    "gradle": "java-gradle",
    "java-gradle": "java-gradle",
    "java-jar": "java-jar",
    "java-maven": "java-maven",
    "java-war": "java-war",
    "node.js": "node",
    "nodejs": "node",
    "nodejsstatic": "node",
    "php": "php",
    "python": "python",
    "ruby": "ruby",
    "static": "static",
    "go": "go",
}


class _Port(msgspec.Struct):
    port: int
    protocol: str = ""


class _File(msgspec.Struct):
    language: str = ""
    buildpath: str = ""
    cmd: str = ""
    ports: list[_Port] = []
    envs: dict[str, object] = {}
    services: list[object] = []


class RainbondSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says in Rayfold's terms; `subdir` is where the source to build lies."""

    settings: ComponentSettings
    subdir: str = ""
    warnings: tuple[str, ...] = ()


def parse_rainbondfile(text: str) -> RainbondSettings:
    """Parse the file. Raises `SettingsError` (settings_invalid) with what is wrong."""
    try:
        found = msgspec.convert(yaml.safe_load(text) or {}, type=_File, strict=False)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        told = " ".join(str(error).split())
        raise SettingsError(
            f"{FILE}: expected Rainbond's YAML, found: {told}. Correct it or remove the file."
        ) from error
    language = None
    if found.language:
        language = _LANGUAGES.get(found.language.strip().lower())
        if language is None:
            raise SettingsError(
                f"{FILE}: language: expected one of {', '.join(sorted(_LANGUAGES))}, found {found.language[:80]!r}."
            )
    port = next((each.port for each in found.ports), None)
    if port is not None and not 0 < port < 1 << 16:
        raise SettingsError(f"{FILE}: ports: expected a number from 1 to 65535, found {port}.")
    settings = ComponentSettings(language=language, port=port, processes={"web": found.cmd} if found.cmd else {})
    return RainbondSettings(settings=settings, subdir=found.buildpath, warnings=_warnings(found))


def _warnings(found: _File) -> tuple[str, ...]:
    told: list[str] = []
    if found.envs:
        names = ", ".join(sorted(found.envs)[:10])
        told.append(f"{FILE}: envs ({names}) are not set from the source: rayfold config set NAME=VALUE")
    if found.services:
        told.append(f"{FILE}: services are not read: deploy each with --subdir and --component")
    if len(found.ports) > 1:
        told.append(f"{FILE}: only the first port is read: an application listens on $PORT")
    return tuple(told)


def merged(ours: ComponentSettings, theirs: ComponentSettings) -> ComponentSettings:
    """`ours` where it says something, else `theirs`."""
    return msgspec.structs.replace(
        ours,
        port=ours.port or theirs.port,
        language=ours.language or theirs.language,
        processes=ours.processes or theirs.processes,
    )
