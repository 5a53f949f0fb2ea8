"""Says what language a source tree is, because of which file, and what else it might have been.

The tables are in `catalogue.py`; it reads names only, and must not know how a language is built.
"""

import difflib
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from actors.builder.catalogue import LANGUAGES, LEFTOVERS, LOOK_ALIKES, MARKERS, SKIPPED, Language, Marker
from actors.builder.errors import DetectionError

DOCKERFILE = "dockerfile"
_SHOWN_ENTRIES = 15
_MOST_DOCKERFILES = 5
_STRENGTHS = {3: "says how to build it", 2: "can be started", 1: "can be served or run as it is"}


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A language that the tree might be: the file that says so, how much it says (1 to 3), and the reason in words."""

    language: str
    title: str
    file: str
    strength: int
    built: bool
    reason: str


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """The language chosen, the sentence that says why, and everything that was seen (the chosen one first).

    `also_saw` are the other languages with their files.
    """

    language: str
    because: str
    sentence: str
    rule: str
    also_saw: tuple[str, ...] = ()
    hits: tuple[Hit, ...] = ()

    @property
    def known(self) -> Language:
        """What the catalogue knows of the language."""
        return LANGUAGES[self.language]


def detect(
    root: Path, *, explicit: str | None = None, said_by: str = "rayfold.toml", engine: bool = False
) -> Detection:
    """Choose the language of the tree `root`; `explicit` is what the file `said_by` asks for. Blocking.

    `engine`: there is a container engine, so a Dockerfile is built too.

    The rule: the file that says most wins (what says how to build, then what can be started, then what can be served);
    among equals the order of `catalogue.MARKERS`; what is not built here only when nothing else is there.
    Raises `DetectionError` (nothing_detected, language_not_built): expected, what the directory holds, and the fix.
    """
    hits = sorted(_hits(root, engine), key=_rank)
    if explicit is not None:
        return _answer(explicit, said_by, f"{said_by} asks for it", hits)
    if not hits:
        raise DetectionError(_nothing(root))
    first = hits[0]
    if not first.built:
        raise DetectionError(
            f"{first.file} says {first.title}, which is not built here: {LANGUAGES[first.language].instead}. "
            f"{_holds(root)}.",
            code="language_not_built",
        )
    return _answer(first.language, first.file, f"{first.file} {_STRENGTHS[first.strength]}", hits)


def _rank(hit: Hit) -> tuple[bool, int, int]:
    # A Procfile's commands bring all they need: it is the way out for a language that is not built here.
    order = next(n for n, marker in enumerate(MARKERS) if marker.language == hit.language)
    return (not hit.built, -hit.strength, order if hit.language != "procfile" else len(MARKERS))


def _hits(root: Path, engine: bool = False) -> list[Hit]:
    """One hit for each language: its strongest marker."""
    names = list(_names(root))
    found: dict[str, Hit] = {}
    for marker in sorted(MARKERS, key=lambda each: -each.strength):
        for pattern in marker.files:
            name = next((each for each in names if _matches(each, pattern)), None)
            if name is not None and marker.language not in found:
                found[marker.language] = _hit(marker, name, engine)
    if "node" in found and found.get("static"):
        del found["static"]  # its files are what Node serves or builds
    return list(found.values())


def _hit(marker: Marker, name: str, engine: bool) -> Hit:
    language = LANGUAGES[marker.language]
    built = language.built or (engine and language.name == DOCKERFILE)
    reason = _STRENGTHS[marker.strength] + ("" if built else f"; not built here: {language.instead}")
    return Hit(
        language=marker.language,
        title=language.title,
        file=name,
        strength=marker.strength,
        built=built,
        reason=reason,
    )


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _names(root: Path) -> Iterator[str]:
    """Names at the top and one directory below, in a fixed order; never through a link to a directory."""
    below: list[str] = []
    for entry in sorted(os.scandir(root), key=lambda each: each.name):
        if entry.is_file() or entry.name == "grails-app":
            yield entry.name
        if entry.is_dir(follow_symlinks=False) and (entry.name not in SKIPPED or entry.name in ("dist", "vendor")):
            below.append(entry.name)
    for directory in below:
        with os.scandir(root / directory) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.is_file():
                    yield f"{directory}/{entry.name}"


def _answer(language: str, because: str, rule: str, hits: list[Hit]) -> Detection:
    title = LANGUAGES[language].title
    chosen = [hit for hit in hits if hit.language == language]
    others = [hit for hit in hits if hit.language not in (language, "procfile")]
    also = tuple(f"{hit.title} ({hit.file})" for hit in others)
    sentence = f"detected {title} because of {because}"
    if also:
        sentence += f"; also saw {', '.join(also)}: set build.language in rayfold.toml to choose another"
    return Detection(
        language=language, because=because, sentence=sentence, rule=rule, also_saw=also,
        hits=(*chosen, *(hit for hit in hits if hit.language != language)),
    )  # fmt: skip


def dockerfiles(root: Path) -> tuple[str, ...]:
    """At most five Dockerfiles at the top or one directory below, those at the top first. Blocking."""
    patterns = next(marker.files for marker in MARKERS if marker.language == DOCKERFILE)
    found = [name for name in _names(root) if any(_matches(name, pattern) for pattern in patterns)]
    return tuple(sorted(found, key=lambda name: (name.count("/"), name)))[:_MOST_DOCKERFILES]


def _holds(root: Path) -> str:
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    shown = ", ".join(entries[:_SHOWN_ENTRIES]) or "nothing"
    if len(entries) > _SHOWN_ENTRIES:
        shown += f" and {len(entries) - _SHOWN_ENTRIES} more"
    return f"The directory holds {shown}"


def _nothing(root: Path) -> str:
    expected = (
        "requirements.txt or pyproject.toml (Python), package.json (Node), go.mod (Go), pom.xml (Java), composer.json "
        "(PHP), Gemfile (Ruby), index.html or public/index.html (static)"
    )
    return f"Expected {expected} or a Procfile; t{_holds(root)[1:]}. {_fix(root)}"


def _fix(root: Path) -> str:
    entries = sorted(path.name for path in root.iterdir())
    names = [name for marker in MARKERS for name in marker.files if "/" not in name and "*" not in name]
    by_lower = {name.lower(): name for name in names}
    for entry in entries:
        lower = entry.lower()
        near = difflib.get_close_matches(entry, names, 1, 0.88)
        meant = LOOK_ALIKES.get(lower) or by_lower.get(lower) or next(iter(near), None)
        if meant and meant != entry:
            return f"Did you mean {meant}? Rename {entry} to {meant}."
    for entry in entries:
        if (root / entry).is_dir() and entry not in SKIPPED and (inside := _hits(root / entry)):
            best = min(inside, key=_rank)
            return f"{entry}/{best.file} is there: deploy the sub-directory {entry} instead (--subdir {entry})."
    for entry in entries:
        if entry in LEFTOVERS:
            return f"{LEFTOVERS[entry][0].upper()}{LEFTOVERS[entry][1:]}."
    return "Add one of these files, or check that this is the right directory."
