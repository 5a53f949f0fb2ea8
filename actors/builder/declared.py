"""Reads what a source declares about its own building and running: rayfold.toml, rainbondfile and Procfile.

Blocking, and nothing is run; it must not know what is detected or built.
"""

from pathlib import Path

import msgspec

from actors.builder.languages.texts import text_of
from actors.builder.model import ComponentSettings
from actors.builder.procfile import Procfile, parse_procfile
from actors.builder.rainbondfile import FILE as RAINBONDFILE
from actors.builder.rainbondfile import merged, parse_rainbondfile
from actors.builder.settings import FILE as SETTINGS_FILE
from actors.builder.settings import parse_settings
from actors.builder.sources import subdirectory

PROCFILE = "Procfile"


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What the files say. `root` is where the source to build lies; `language_from` is the file that names one."""

    root: Path
    settings: ComponentSettings = ComponentSettings()
    procfile: Procfile = Procfile()
    language_from: str = SETTINGS_FILE
    warnings: tuple[str, ...] = ()


def read_declared(root: Path) -> Declared:
    """Read the files at the top of `root`. Raises `SettingsError`, `ProcfileError`, `SourceError`."""
    settings, warnings = ComponentSettings(), tuple[str, ...]()
    if (root / SETTINGS_FILE).is_file():
        settings, warnings = parse_settings(text_of(root, SETTINGS_FILE))
    language_from = SETTINGS_FILE
    if (root / RAINBONDFILE).is_file():
        found = parse_rainbondfile(text_of(root, RAINBONDFILE))
        warnings += found.warnings
        if settings.language is None:
            language_from = RAINBONDFILE
        settings = merged(settings, found.settings)
        root = subdirectory(root, found.subdir)
    procfile = parse_procfile(text_of(root, PROCFILE)) if (root / PROCFILE).is_file() else Procfile()
    return Declared(root=root, settings=settings, procfile=procfile, language_from=language_from, warnings=warnings)
