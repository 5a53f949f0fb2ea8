"""Node projects that are installed from their own source: what of that is fetching, and what is building.

Fetching is done in a copy that is thrown away, where the project's own packages have no install scripts; what it put
into node_modules is moved beside the source, and the scripts run there. All functions block, and no command of the
build may run meanwhile; this must not know the package managers.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from actors.builder.languages.beside import forget, write_new

INSTALL_SCRIPTS = ("preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare")
"""In the order in which npm runs them."""
_MODULES = "node_modules"
_PACKAGE = "package.json"


def take_scripts_out(root: Path, user: tuple[int, int] | None) -> None:
    """Take the install scripts out of every package.json below `root` that no package manager put there."""
    for place in _own_places(root):
        described = _described(place)
        scripts = described.get("scripts")
        if isinstance(scripts, dict) and any(name in scripts for name in INSTALL_SCRIPTS):
            described["scripts"] = {name: text for name, text in scripts.items() if name not in INSTALL_SCRIPTS}
            write_new(place / _PACKAGE, json.dumps(described, indent=2).encode(), user)


def move_modules(installed: Path, root: Path) -> list[Path]:
    """Move each node_modules of `installed` to the same place below `root`.

    Returns where the packages lie, relative to `root`, that they link to: the project's own, its workspaces first.
    """
    linked: set[Path] = set()
    for place in list(_own_places(installed)):
        modules = place / _MODULES
        relative = place.relative_to(installed)
        if modules.is_symlink() or not modules.is_dir() or not (root / relative).is_dir():
            continue
        linked |= {each for each in _linked(modules, installed) if (root / each).is_dir()}
        forget(root / relative / _MODULES)
        modules.rename(root / relative / _MODULES)
    return [*sorted(linked - {Path()}), Path()]


def install_scripts(root: Path, places: Iterable[Path]) -> list[tuple[Path, str]]:
    """The install scripts of the packages at `places` below `root`, in the order to run them."""
    found: list[tuple[Path, str]] = []
    for place in places:
        scripts = _described(root / place).get("scripts")
        found += [(place, name) for name in INSTALL_SCRIPTS if isinstance(scripts, dict) and name in scripts]
    return found


def _own_places(root: Path) -> Iterator[Path]:
    for directory, names, _ in os.walk(root):
        names[:] = sorted(name for name in names if name != _MODULES)
        yield Path(directory)


def _described(place: Path) -> dict[str, object]:
    path = place / _PACKAGE
    with suppress(OSError, ValueError):
        described = json.loads(path.read_text("utf-8")) if not path.is_symlink() else None
        if isinstance(described, dict):
            return described
    return {}


def _linked(modules: Path, installed: Path) -> Iterator[Path]:
    top = installed.resolve()
    for link in [*modules.iterdir(), *modules.glob("@*/*")]:
        if link.is_symlink() and link.resolve().is_relative_to(top):
            place = link.resolve().relative_to(top)
            if _MODULES not in place.parts:
                yield place
