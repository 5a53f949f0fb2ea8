"""Reads the keys of `rayfold.toml` that concern building and running: [build], [processes], [component].

Text in, a checked struct out; it must not know what is done with the values.
"""

import tomllib

from actors.builder import catalogue
from actors.builder.detect import DOCKERFILE
from actors.builder.errors import SettingsError
from actors.builder.model import ComponentSettings
from actors.builder.procfile import check_process_name
from actors.builder.steps import LONGEST_SECONDS, RELEASE, STEPS

FILE = "rayfold.toml"
LANGUAGES = (*(language.name for language in catalogue.LANGUAGES.values() if language.built), DOCKERFILE)
_HIGHEST_PORT = 65535
_KNOWN = {"build": {"language", "root", "dockerfile", "timeouts"}, "component": {"port", "probe"}}


def parse_settings(text: str) -> tuple[ComponentSettings, tuple[str, ...]]:
    """The settings, and a warning for each key nobody reads. Raises `SettingsError` with file, key and fix."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{FILE}: expected TOML, found: {error}. Correct the line it names.") from error
    build, component = _table(tables, "build"), _table(tables, "component")
    language = _text(build, "build", "language")
    if language is not None and language not in LANGUAGES:
        raise SettingsError(f"{FILE}: build.language: expected one of {', '.join(LANGUAGES)}, found {language!r}.")
    probe = _text(component, "component", "probe")
    if probe is not None and not probe.startswith("/"):
        raise SettingsError(f"{FILE}: component.probe: expected a path such as /healthz, found {probe!r}.")
    dockerfile = _text(build, "build", "dockerfile")
    if dockerfile is not None and language is None:
        language = DOCKERFILE
    settings = ComponentSettings(
        port=_port(component),
        probe_path=probe,
        language=language,
        static_root=_text(build, "build", "root"),
        dockerfile=dockerfile,
        processes=_processes(_table(tables, "processes")),
        step_seconds=_timeouts(build),
    )
    unread = [
        f"{FILE}: {name}.{key} is not a key that builds read"
        for name, keys in _KNOWN.items()
        for key in _table(tables, name)
        if key not in keys
    ]
    return settings, tuple(unread)


def _timeouts(build: dict[str, object]) -> dict[str, float]:
    # Not "source": when this file can be read, that step is over.
    known = [*(step for step in STEPS if step != "source"), RELEASE]
    found: dict[str, float] = {}
    for step, seconds in _table(build, "timeouts", "build.timeouts").items():
        if step not in known:
            raise SettingsError(f"{FILE}: build.timeouts: expected one of {', '.join(known)}, found {step!r}.")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= LONGEST_SECONDS:
            raise SettingsError(
                f"{FILE}: build.timeouts.{step}: expected seconds from 1 to {LONGEST_SECONDS}, found {seconds!r}."
            )
        found[step] = float(seconds)
    return found


def _table(tables: dict[str, object], name: str, shown: str = "") -> dict[str, object]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise SettingsError(f"{FILE}: expected a table [{shown or name}], found {found!r}.")
    return found


def _text(table: dict[str, object], name: str, key: str) -> str | None:
    found = table.get(key)
    if found is not None and (not isinstance(found, str) or not found or "\0" in found):
        raise SettingsError(f"{FILE}: {name}.{key}: expected text, found {found!r}.")
    return found


def _port(table: dict[str, object]) -> int | None:
    found = table.get("port")
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 < found <= _HIGHEST_PORT:
        raise SettingsError(f"{FILE}: component.port: expected a number from 1 to {_HIGHEST_PORT}, found {found!r}.")
    return found


def _processes(table: dict[str, object]) -> dict[str, str]:
    processes: dict[str, str] = {}
    for name in table:
        command = _text(table, "processes", name)
        processes[check_process_name(name, where=f"{FILE} [processes]")] = command or ""
    return processes
