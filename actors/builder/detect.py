"""Says what language a source tree is, because of which file, and what else it might have been.

The markers are data, in the order of preference; it must not know how a language is built.
"""

import difflib
from pathlib import Path

import msgspec

from actors.builder.errors import DetectionError

_SHOWN_ENTRIES = 15


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """A file (relative to the root) that gives a language away."""

    language: str
    file: str


# First hit wins. A file that installs dependencies says more than one that only could be started, so the weak
# markers of Python come last. Procfile alone: the commands bring all they need.
MARKERS = (
    Marker(language="python", file="requirements.txt"),
    Marker(language="python", file="pyproject.toml"),
    Marker(language="node", file="package.json"),
    Marker(language="python", file="manage.py"),
    Marker(language="python", file="app.py"),
    Marker(language="python", file="main.py"),
    Marker(language="python", file="wsgi.py"),
    Marker(language="python", file="server.py"),
    Marker(language="static", file="index.html"),
    Marker(language="static", file="public/index.html"),
    Marker(language="static", file="dist/index.html"),
    Marker(language="procfile", file="Procfile"),
)
TITLES = {"python": "Python", "node": "Node", "static": "static site", "procfile": "Procfile"}

_LOOK_ALIKES = {
    "requirement.txt": "requirements.txt",
    "requirements.text": "requirements.txt",
    "requirements.txt.txt": "requirements.txt",
    "pyproject.tml": "pyproject.toml",
    "packages.json": "package.json",
    "package.jsn": "package.json",
    "procfile": "Procfile",
    "procfile.txt": "Procfile",
    "index.htm": "index.html",
}
# Another language's own file: better than a shrug.
_OTHERS = {
    "Gemfile": "Ruby",
    "go.mod": "Go",
    "pom.xml": "Java (Maven)",
    "build.gradle": "Java (Gradle)",
    "composer.json": "PHP",
    "Cargo.toml": "Rust",
    "Dockerfile": "a Dockerfile",
    "Pipfile": "Python with pipenv",
    "setup.py": "Python with setup.py only",
}


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """The language chosen, the sentence that says why, and the other languages seen with their files."""

    language: str
    because: str
    sentence: str
    also_saw: tuple[str, ...] = ()


def detect(root: Path, *, explicit: str | None = None) -> Detection:
    """Choose the language of the tree `root`; `explicit` is `build.language` of rayfold.toml. Blocking.

    Raises `DetectionError` (nothing_detected): what was expected, what the directory holds, and the fix.
    """
    hits = [marker for marker in MARKERS if (root / marker.file).is_file()]
    if explicit is not None:
        return _answer(explicit, "rayfold.toml", hits)
    if not hits:
        raise DetectionError(_nothing(root))
    return _answer(hits[0].language, hits[0].file, hits)


def _answer(language: str, because: str, hits: list[Marker]) -> Detection:
    others: dict[str, str] = {}
    for hit in hits:
        if hit.language not in (language, "procfile"):
            others.setdefault(hit.language, hit.file)
    also = tuple(f"{TITLES[name]} ({file})" for name, file in others.items())
    sentence = f"detected {TITLES[language]} because of {because}"
    if also:
        sentence += f"; also saw {', '.join(also)}: set build.language in rayfold.toml to choose another"
    return Detection(language=language, because=because, sentence=sentence, also_saw=also)


def _nothing(root: Path) -> str:
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    shown = ", ".join(entries[:_SHOWN_ENTRIES]) or "nothing"
    if len(entries) > _SHOWN_ENTRIES:
        shown += f" and {len(entries) - _SHOWN_ENTRIES} more"
    expected = (
        "requirements.txt or pyproject.toml (Python), package.json (Node), index.html or public/index.html (static)"
    )
    return f"Expected {expected} or a Procfile; the directory holds {shown}. {_fix(root, entries)}"


def _fix(root: Path, entries: list[str]) -> str:
    names = {marker.file for marker in MARKERS if "/" not in marker.file}
    for entry in entries:
        meant = _LOOK_ALIKES.get(entry.lower()) or next(iter(difflib.get_close_matches(entry, names, 1, 0.88)), None)
        if meant:
            return f"Did you mean {meant}? Rename {entry} to {meant}."
    for entry in entries:
        if entry in _OTHERS:
            return f"{entry} says {_OTHERS[entry]}, which is not built here yet: add a Procfile with `web: COMMAND`."
    for entry in entries:
        if entry.endswith("/"):
            inside = next((marker for marker in MARKERS if (root / entry / marker.file).is_file()), None)
            if inside:
                return f"{entry}{inside.file} is there: deploy the sub-directory {entry.rstrip('/')} instead."
    return "Add one of these files, or check that this is the right directory."
