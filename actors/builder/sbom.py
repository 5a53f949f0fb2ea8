"""The bill of materials of an artifact, as CycloneDX 1.6 JSON, and what changed between two of them.

A function of the packages alone, so that the same content has the same bytes; it must not know how packages are found.
"""

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from actors.builder.packages import Package

_ROOT = "application"


class _License(msgspec.Struct, omit_defaults=True):
    name: str


class _LicenseChoice(msgspec.Struct, omit_defaults=True):
    license: _License


class _Component(msgspec.Struct, omit_defaults=True, rename={"bom_ref": "bom-ref"}):
    type: str
    bom_ref: str
    name: str
    group: str = ""
    version: str = ""
    licenses: list[_LicenseChoice] = []
    purl: str = ""


class _Property(msgspec.Struct):
    name: str
    value: str


class _Metadata(msgspec.Struct, omit_defaults=True):
    component: _Component | None = None
    properties: list[_Property] = []


class _Bom(msgspec.Struct, rename="camel"):
    bom_format: str
    spec_version: str
    serial_number: str
    version: int
    metadata: _Metadata
    components: list[_Component]


class PackageChange(msgspec.Struct, frozen=True, kw_only=True):
    """A package of two artifacts whose versions differ. `before` empty: it was added; `after` empty: it was removed.
    Several versions side by side are separated by commas."""

    package: str
    before: str
    after: str


class NotASbom(ValueError):
    """The bytes are no bill of materials that was written here."""


def sbom(packages: Iterable[Package], *, language: str, runtime: str) -> bytes:
    """The document. No time and no name of an application is in it: one artifact may have several."""
    listed = sorted(set(packages))
    components = [_component(package) for package in listed]
    unique = {component.bom_ref: component for component in reversed(components)}
    components = [unique[key] for key in sorted(unique)]
    digest = hashlib.sha256(msgspec.json.encode([listed, language, runtime])).hexdigest()
    made = _Bom(
        bom_format="CycloneDX",
        spec_version="1.6",
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digest).urn,
        version=1,
        metadata=_Metadata(
            component=_Component(type="application", bom_ref=_ROOT, name=_ROOT),
            properties=[
                _Property(name="rayfold:language", value=language),
                _Property(name="rayfold:runtime", value=runtime),
            ],
        ),
        components=components,
    )
    return msgspec.json.encode(made)


def _component(package: Package) -> _Component:
    licences = [_LicenseChoice(license=_License(name=package.licence))] if package.licence else []
    return _Component(
        type="library",
        bom_ref=package.purl,
        group=package.namespace,
        name=package.name,
        version=package.version,
        licenses=licences,
        purl=package.purl,
    )


def told_of(document: bytes, *, name: str, version: str, properties: Mapping[str, str]) -> bytes:
    """The stored document with what its reader asked about: the component's name, the artifact, where it came from.

    Raises NotASbom.
    """
    found = _decode(document)
    found.metadata.component = _Component(type="application", bom_ref=_ROOT, name=name, version=version)
    found.metadata.properties += [
        _Property(name=f"rayfold:{key}", value=text) for key, text in properties.items() if text
    ]
    return msgspec.json.encode(found)


def versions_in(document: bytes) -> dict[str, list[str]]:
    """The versions of each package, by its package URL without the version. Raises NotASbom."""
    found: dict[str, list[str]] = {}
    for component in _decode(document).components:
        name = component.purl.partition("?")[0]
        if component.version:
            name = name.rpartition("@")[0]
        found.setdefault(name, []).append(component.version)
    return found


def changes(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> list[PackageChange]:
    """What differs, by package."""
    return [
        PackageChange(package=name, before=_said(before.get(name)), after=_said(after.get(name)))
        for name in sorted(before.keys() | after.keys())
        if sorted(before.get(name, ())) != sorted(after.get(name, ()))
    ]


def _said(versions: Sequence[str] | None) -> str:
    return "" if versions is None else ", ".join(sorted(version or "?" for version in versions))


def _decode(document: bytes) -> _Bom:
    try:
        return msgspec.json.decode(document, type=_Bom)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotASbom(f"expected a bill of materials, found something else: {error}") from error
