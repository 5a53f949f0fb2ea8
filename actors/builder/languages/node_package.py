"""Reads package.json: what building and starting depend on, and where a site generator writes its site.

Text in, data out; it must not know how anything is installed.
"""

import re
from pathlib import Path

import msgspec

from actors.builder.catalogue import FRAMEWORKS, Framework
from actors.builder.errors import DetectionError
from actors.builder.languages.texts import text_of


class _Engines(msgspec.Struct):
    node: str = ""


class PackageJson(msgspec.Struct):
    """The keys of package.json that building and starting depend on."""

    name: str = ""
    main: str = ""
    packageManager: str = ""
    scripts: dict[str, str] = {}
    dependencies: dict[str, str] = {}
    devDependencies: dict[str, str] = {}
    optionalDependencies: dict[str, str] = {}
    workspaces: list[str] | dict[str, object] = []
    engines: _Engines = msgspec.field(default_factory=_Engines)

    def framework(self) -> Framework | None:
        """The first framework of the catalogue among the dependencies."""
        known = {**self.devDependencies, **self.dependencies}
        return next((each for each in FRAMEWORKS if each.language == "node" and each.dependency in known), None)


class _Target(msgspec.Struct):
    options: dict[str, object] = {}


class _Project(msgspec.Struct):
    architect: dict[str, _Target] = {}


class _Angular(msgspec.Struct):
    projects: dict[str, _Project] = {}


def read_package(text: str) -> PackageJson:
    """Parse package.json; raises `DetectionError` (package_invalid) with what is wrong."""
    try:
        return msgspec.json.decode(text, type=PackageJson, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DetectionError(f"package.json: expected npm's JSON, found: {error}.", code="package_invalid") from error


def static_output(root: Path, package: PackageJson) -> str | None:
    """Where the build script leaves a site of files only, None when a server is what runs. Blocking.

    A framework of the catalogue with an `output`, Next.js with `output: 'export'`, Nuxt with `ssr: false`; never
    without a build script.
    """
    framework = package.framework()
    if framework is None or "build" not in package.scripts:
        return None
    if framework.dependency == "@angular/core":
        return _angular_output(root)
    if framework.dependency == "next":
        return "out" if _config_says(root, "next.config", r"output\s*:\s*['\"]export['\"]") else None
    if framework.dependency == "nuxt":
        return ".output/public" if _config_says(root, "nuxt.config", r"\bssr\s*:\s*false") else None
    return framework.output or None


def _config_says(root: Path, name: str, pattern: str) -> bool:
    return any(re.search(pattern, text_of(root, f"{name}.{ending}")) for ending in ("js", "mjs", "cjs", "ts", "mts"))


def _angular_output(root: Path) -> str | None:
    try:
        known = msgspec.json.decode(text_of(root, "angular.json") or "{}", type=_Angular, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return "dist"
    for name, project in known.projects.items():
        if (build := project.architect.get("build")) is None:
            continue
        if build.options.get("ssr") or build.options.get("server"):
            return None
        path = build.options.get("outputPath", f"dist/{name}")
        return str(path.get("base", f"dist/{name}")) if isinstance(path, dict) else str(path)
    return "dist"


def served_directory(root: Path, output: str) -> str:
    """The directory with index.html at or below `output` (Angular writes to browser/). Raises `DetectionError`."""
    for place in (output, f"{output}/browser"):
        found = (root / place).resolve()
        if (found / "index.html").is_file() and found.is_relative_to(root.resolve()):
            return place
    made = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != "node_modules")
    raise DetectionError(
        f"Expected the build script to leave {output}/index.html, found none (directories: "
        f"{', '.join(made[:15]) or 'none'}). Set build.root in rayfold.toml to the directory it writes to.",
        code="static_root_missing",
    )
