"""Builds PHP applications: Composer's packages from the lock file, served by PHP's own server with several workers.

Composer's autoloader knows places relative to vendor/, so packages are cached in a layer and copied beside the source;
this must not know how artifacts are stored.
"""

import asyncio
import hashlib
import re
from pathlib import Path

import msgspec

from actors.builder.errors import DetectionError, StepFailedError, ToolMissingError
from actors.builder.interpreters import Interpreter, find_fitting, find_program
from actors.builder.languages.beside import BESIDE, forget, put_beside
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.texts import text_of
from actors.builder.versions import fits

_COMPOSER = "composer.json"
_LOCK = "composer.lock"
_VENDOR = "vendor"
_ROUTER = Path(__file__).with_name("php_router.php")
_ROOTS = ("public", "web", "htdocs", "www", ".")
_WORKERS = "4"
_PLATFORM = re.compile(r"^(?:php(?:-64bit)?|ext-.+|lib-.+|composer(?:-.+)?)$")
_FLAGS = ("--no-interaction", "--no-ansi")
_OUT_OF_STEP = ("lock file is not up to date", "not present in the lock file")
_EXTENSION = re.compile(r"requires? (?:PHP extension )?ext-(\w+)", re.IGNORECASE)


class _Config(msgspec.Struct):
    platform: dict[str, str] = {}


class ComposerJson(msgspec.Struct):
    """The keys of composer.json that building depends on."""

    require: dict[str, str] = {}
    config: _Config = msgspec.field(default_factory=_Config)


def read_composer(text: str) -> ComposerJson:
    """Parse composer.json; raises `DetectionError` (composer_invalid)."""
    try:
        return msgspec.json.decode(text, type=ComposerJson, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DetectionError(
            f"composer.json: expected Composer's JSON, found: {error}. Run `composer validate`.",
            code="composer_invalid",
        ) from error


def document_root(root: Path, explicit: str | None) -> str:
    """The directory to serve: build.root, else the first of the usual ones with an index. Raises `DetectionError`."""
    if explicit is not None:
        found = (root / explicit).resolve()
        if found.is_dir() and found.is_relative_to(root.resolve()):
            return explicit
    for name in _ROOTS if explicit is None else ():
        if (root / name / "index.php").is_file():
            return name
    raise DetectionError(
        f"Expected index.php in one of {', '.join(name + '/' for name in _ROOTS)}"
        f"{f', or the directory build.root {explicit!r}' if explicit else ''}; found none. Set build.root in "
        "rayfold.toml to the directory to serve, or add a Procfile with `web: COMMAND`.",
        code="no_start_command",
    )


def default_start(root: Path, explicit: str | None) -> str:
    """The start command without a Procfile. Blocking. Raises `DetectionError`."""
    return f"php -S 127.0.0.1:$PORT -t {document_root(root, explicit)} {BESIDE}/{_ROUTER.name}"


def wanted_version(root: Path) -> str:
    """The range of PHP versions that composer.json asks for, "" for any. Blocking. Raises `DetectionError`."""
    text = text_of(root, _COMPOSER)
    composer = read_composer(text) if text else ComposerJson()
    return composer.config.platform.get("php") or composer.require.get("php", "")


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this PHP application. Raises `DetectionError`, `ToolMissingError`."""
    text = await asyncio.to_thread(text_of, bench.root, _COMPOSER)
    composer = read_composer(text) if text else ComposerJson()
    wanted = await asyncio.to_thread(wanted_version, bench.root)
    php = await asyncio.to_thread(
        find_fitting,
        "php",
        accept=lambda version: fits(version, wanted, "composer"),
        asked=f"composer.json asks for PHP {wanted}",
        for_others=bench.for_others,
    )
    await bench.log.detail(f"PHP {php.version} ({php.path})")
    build = _PhpBuild(bench, php)
    packages = [name for name in composer.require if not _PLATFORM.match(name)]
    lock = await asyncio.to_thread(text_of, bench.root, _LOCK)
    if packages and not lock:
        raise DetectionError(
            f"composer.json requires {', '.join(packages[:5])}: expected composer.lock beside it, found none. Run "
            "`composer update` and commit composer.lock.",
            code="lock_missing",
        )

    async def start() -> str:
        return await asyncio.to_thread(default_start, bench.root, bench.settings.static_root)

    build.uses_composer = bool(text)
    return LanguagePlan(
        runtime=php.runtime,
        interpreter=php.path,
        start=start,
        layer=build.layer(text, lock) if text and lock else None,
        finish=build.finish,
        finish_needs_layer=True,
        env={"PHP_CLI_SERVER_WORKERS": _WORKERS},
    )


class _PhpBuild:
    """The steps of one PHP build, and what they share."""

    def __init__(self, bench: Workbench, php: Interpreter) -> None:
        self._bench = bench
        self._php = php
        self.uses_composer = False

    def layer(self, text: str, lock: str) -> LayerPlan:
        """vendor/ without its autoloader, by composer.json, composer.lock and PHP's version."""
        lock_hash = hashlib.sha256(f"{text}\0{lock}".encode()).hexdigest()
        parts = ["php", self._php.version, lock_hash]
        if re.search(r'"type":\s*"path"', lock):
            parts.append(self._bench.request.build_id)  # it installs from the source itself: never shared
        return LayerPlan(
            key_parts=tuple(parts), lock_hash=lock_hash, lock_file=_LOCK, install=self._install, launch=False
        )

    async def _install(self) -> Path:
        bench = self._bench
        target = bench.make_directory("deps")
        await self._composer(
            bench.root, ["validate", "--no-check-publish", "--no-check-all"],
            "composer.json or composer.lock is not valid", code="composer_invalid",
        )  # fmt: skip
        copy = await bench.working_copy("try")
        vendor = copy / _VENDOR
        await asyncio.to_thread(forget, vendor)
        await self._composer(
            copy,
            ["install", "--no-dev", "--no-autoloader", "--no-scripts", "--prefer-dist", "--no-progress"],
            "Composer could not install what composer.lock asks for",
            code="dependencies_failed",
            network=True,
        )
        if await asyncio.to_thread(vendor.is_dir):
            await asyncio.to_thread(vendor.rename, target / _VENDOR)
        return target

    async def finish(self, layer: Path | None) -> None:
        """Put vendor/ and the router beside the source, and write the autoloader."""
        bench = self._bench
        await asyncio.to_thread(put_beside, bench.root, _ROUTER, _ROUTER.name, bench.request.user)
        if layer is not None and not (layer / _VENDOR).is_symlink() and (layer / _VENDOR).is_dir():
            await asyncio.to_thread(forget, bench.root / _VENDOR)
            # As the build's user: what a package's plugin linked there may be readable to the platform only.
            await bench.run(
                ["cp", "-a", str(layer / _VENDOR), str(bench.root / _VENDOR)], cwd=bench.root, env=bench.environment(),
                code="dependencies_failed", failed="vendor/ could not be copied",
            )  # fmt: skip
        if self.uses_composer:
            await self._composer(
                bench.root, ["dump-autoload", "--no-dev", "--optimize", "--no-scripts"],
                "Composer could not write the autoloader", code="compile_failed",
            )  # fmt: skip

    async def _composer(
        self, place: Path, arguments: list[str], failed: str, *, code: str, network: bool = False
    ) -> None:
        bench = self._bench
        program = find_program("composer", for_others=bench.for_others)
        if program is None:
            raise ToolMissingError(
                "Expected composer for all users, found none. Install it on the builder's machine: apt-get install "
                "composer.",
                code="composer_missing",
            )
        home = bench.work / "home"
        own = {"COMPOSER_HOME": str(home / "composer"), "COMPOSER_CACHE_DIR": str(home / "composer-cache")}
        own |= {"COMPOSER_MIRROR_PATH_REPOS": "1", "COMPOSER_ALLOW_SUPERUSER": "1"}
        env = bench.environment(own, path=[self._php.path.parent, program.parent])
        argv = [str(self._php.path), str(program.resolve()), *arguments, *_FLAGS]
        try:
            await bench.run(argv, cwd=place, env=env, code=code, failed=failed, network=network)
        except StepFailedError as error:
            if any(sign in line for line in error.lines for sign in _OUT_OF_STEP):
                raise StepFailedError(
                    "composer.json and composer.lock say different things; expected one to follow from the other. Run "
                    "`composer update --lock` and commit composer.lock.",
                    code="lock_out_of_step",
                    lines=error.lines,
                ) from error
            missing = next((found[1] for line in error.lines if (found := _EXTENSION.search(line))), None)
            if missing:
                raise StepFailedError(
                    f"A package needs PHP's extension {missing}, which is not installed. Install it on the builder's "
                    f"and the nodes' machines: apt-get install php-{missing}.",
                    code="native_library_missing",
                    lines=error.lines,
                ) from error
            raise
