"""Reads a Procfile.

Pure text in, data out; it must not know which process types get routes or where they run.
"""

import re

import msgspec

from actors.builder.errors import ProcfileError

RELEASE = "release"
_LINE = re.compile(r"^(?P<name>[A-Za-z0-9_-]+)\s*:\s*(?P<command>.+?)\s*\Z")
_COMPONENT = re.compile(r"^[a-z](?:[a-z0-9]|-(?=[a-z0-9])){0,39}\Z")


class Procfile(msgspec.Struct, frozen=True, kw_only=True):
    """Process types and their commands, in the file's order; `release` is kept apart."""

    processes: dict[str, str] = {}
    release: str | None = None


def check_process_name(name: str, *, where: str) -> str:
    """`name` in lower case if a component can be called so; raises `ProcfileError` that names `where`."""
    lowered = name.lower()
    if not _COMPONENT.match(lowered):
        proposal = re.sub(r"-+", "-", re.sub(r"[^a-z0-9-]", "-", lowered)).strip("-0123456789") or "web"
        raise ProcfileError(
            f"{where}: process {name!r} cannot name a component: expected a letter, then letters, digits and single "
            f"hyphens, at most 40 in all. Call it {proposal[:40]!r}."
        )
    return lowered


def parse_procfile(text: str) -> Procfile:
    """Parse `name: command` lines; empty lines and `#` comments are skipped. Raises `ProcfileError` with the line."""
    processes: dict[str, str] = {}
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ProcfileError(
                f"Procfile line {number}: expected `name: command` (for example `web: python app.py`), "
                f"found {line[:80]!r}."
            )
        if "\0" in line:
            raise ProcfileError(f"Procfile line {number}: expected text, found a NUL character.")
        name = check_process_name(match["name"], where=f"Procfile line {number}")
        if name in processes:
            raise ProcfileError(f"Procfile line {number}: process {name!r} is there twice. Keep one of the two lines.")
        processes[name] = match["command"]
    if not processes:
        raise ProcfileError("Procfile: expected at least one `name: command` line, found none. Add `web: COMMAND`.")
    release = processes.pop(RELEASE, None)
    return Procfile(processes=processes, release=release)
