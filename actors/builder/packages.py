"""Which packages lie in a tree, by what each package manager writes down when it installs one.

Blocking, and nothing is run; it must not know builds or artifacts. The tree is whatever a build made of it, so what is
unreadable, oversized or nonsense is passed over.
"""

import os
import re
import stat
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from io import BytesIO
from pathlib import Path

import msgspec
from packageurl import PackageURL

MOST_PACKAGES = 20_000
_SMALL = 1 << 20
_LARGE = 32 << 20
_MOST_TEXT = 200
_GEMSPEC = re.compile(r"^(?P<name>.+?)-(?P<version>\d[^-]*)(?:-[\w.-]+)?\.gemspec$")
_ARCHIVE = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+?)-(?P<version>\d[\w.+-]*)\.(?:jar|war)$")
_POM = re.compile(r"^META-INF/maven/[^/]+/[^/]+/pom\.properties$")
_LIBRARIES = re.compile(r"^(?:BOOT-INF/lib|WEB-INF/lib)/(?P<file>[^/]+\.jar)$")


class Package(msgspec.Struct, frozen=True, kw_only=True, order=True, omit_defaults=True):
    """An installed package. `kind` is the type of its package URL: pypi, npm, golang, maven, composer, gem."""

    kind: str
    namespace: str = ""
    name: str
    version: str = ""
    licence: str = ""

    @property
    def purl(self) -> str:
        """Its package URL, which names it for every scanner."""
        return PackageURL(self.kind, self.namespace or None, self.name, self.version or None).to_string()


class _NodePackage(msgspec.Struct):
    name: str = ""
    version: str = ""
    license: str | dict[str, object] | list[object] = ""


class _Composer(msgspec.Struct):
    packages: list[dict[str, object]] = []


def installed_in(tree: Path) -> list[Package]:
    """Every package below `tree`, sorted, each once; of the first 20,000."""
    found: set[Package] = set()
    for package in _walk(tree):
        found.add(package)
        if len(found) >= MOST_PACKAGES:
            break
    return sorted(found)


def linked_in(told: str) -> list[Package]:
    """The modules in a Go program, as `go version -m` tells them; the standard library among them."""
    found: set[Package] = set()
    lines = told.splitlines()
    for number, line in enumerate(lines):
        words = line.split()
        if match := re.search(r": go(\d\S*)$", line):
            found.add(Package(kind="golang", name="std", version=match[1]))
        if len(words) < 3 or words[0] != "dep":
            continue
        follows = lines[number + 1].split() if number + 1 < len(lines) else []
        if len(follows) >= 3 and follows[0] == "=>":
            words = follows
        namespace, _, name = words[1].rpartition("/")
        found.add(_package("golang", name, words[2], namespace=namespace))
    return sorted(found)


def _package(kind: str, name: object, version: object, *, namespace: object = "", licence: object = "") -> Package:
    texts = [str(text).strip()[:_MOST_TEXT] if isinstance(text, str) else "" for text in (name, version, namespace)]
    said = " ".join(licence.split())[:_MOST_TEXT] if isinstance(licence, str) else ""
    return Package(kind=kind, name=texts[0], version=texts[1], namespace=texts[2], licence=said)


def _walk(tree: Path) -> Iterator[Package]:
    for directory, names, files in os.walk(tree):
        place = Path(directory)
        names[:] = sorted(name for name in names if name != ".git" and not (place / name).is_symlink())
        for name in names:
            if name.endswith(".dist-info"):
                yield from _python(place / name / "METADATA")
            elif name.endswith(".egg-info"):
                yield from _python(place / name / "PKG-INFO")
        if place.name == "node_modules" or (place.name.startswith("@") and place.parent.name == "node_modules"):
            for name in names:
                yield from _node(place / name / "package.json")
        if place.name == "specifications":
            yield from _gems(files)
        if place.name == "composer" and "installed.json" in files:
            yield from _composer(place / "installed.json")
        for name in sorted(files):
            if name.endswith((".jar", ".war")):
                yield from _archive(place / name)


def _read(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a plain file; nothing of what is none: a link may lead anywhere, a pipe blocks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as stream:
        return stream.read(limit) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _python(path: Path) -> Iterator[Package]:
    told = HeaderParser().parsestr(_read(path, _SMALL).decode("utf-8", "replace"))
    licence = told.get("License-Expression") or told.get("License") or ""
    if told.get("Name"):
        yield _package("pypi", str(told["Name"]), str(told.get("Version", "")), licence=str(licence))


def _node(path: Path) -> Iterator[Package]:
    try:
        told = msgspec.json.decode(_read(path, _SMALL), type=_NodePackage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    namespace, _, name = told.name.rpartition("/")
    licence = told.license.get("type", "") if isinstance(told.license, dict) else told.license
    if name:
        yield _package("npm", name, told.version, namespace=namespace, licence=licence)


def _gems(files: list[str]) -> Iterator[Package]:
    for file in sorted(files):
        if match := _GEMSPEC.match(file):
            yield _package("gem", match["name"], match["version"])


def _composer(path: Path) -> Iterator[Package]:
    data = _read(path, _LARGE)
    try:
        told = msgspec.json.decode(data, type=_Composer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    for package in told.packages:
        namespace, _, name = str(package.get("name", "")).rpartition("/")
        licences = package.get("license")
        licence = " OR ".join(map(str, licences)) if isinstance(licences, list) else ""
        if name:
            yield _package("composer", name, package.get("version"), namespace=namespace, licence=licence)


def _archive(path: Path) -> Iterator[Package]:
    """What a Java archive says of itself, and of the libraries it brings."""
    if path.is_symlink() or not path.is_file():
        return
    try:
        with zipfile.ZipFile(path) as archive:
            yield from _inside(archive, path.name)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError):
        return


def _inside(archive: zipfile.ZipFile, file: str, *, nested: bool = False) -> Iterator[Package]:
    named = False
    for entry in archive.infolist()[:MOST_PACKAGES]:
        if _POM.match(entry.filename) and entry.file_size <= _SMALL:
            for package in _pom(_unpacked(archive, entry)):
                named = True
                yield package
        elif not nested and (library := _LIBRARIES.match(entry.filename)):
            yield from _library(archive, entry, library["file"])
    if not named and nested and (match := _ARCHIVE.match(file)):
        yield _package("maven", match["name"], match["version"])


def _library(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: str) -> Iterator[Package]:
    if entry.file_size <= _LARGE:
        try:
            with zipfile.ZipFile(BytesIO(_unpacked(archive, entry))) as inner:
                yield from _inside(inner, file, nested=True)
                return
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, OSError):
            pass
    if match := _ARCHIVE.match(file):
        yield _package("maven", match["name"], match["version"])


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """At most what the entry says that it has: one that lies about it is no library."""
    with archive.open(entry) as stream:
        return stream.read(entry.file_size)


def _pom(properties: bytes) -> Iterator[Package]:
    pairs = (line.partition("=") for line in properties.decode("utf-8", "replace").splitlines())
    told = {key.strip(): value.strip() for key, _, value in pairs}
    if told.get("artifactId"):
        yield _package("maven", told["artifactId"], told.get("version", ""), namespace=told.get("groupId", ""))
