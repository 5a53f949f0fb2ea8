"""Builds Java projects with the Gradle wrapper they bring; Gradle and what it downloads go into a layer for building.

It must not know how artifacts are stored.
"""

import asyncio
import hashlib
import re
from pathlib import Path

from actors.builder.archive import remove_tree
from actors.builder.errors import DetectionError, StepFailedError
from actors.builder.interpreters import Interpreter
from actors.builder.languages.jvm import archives_in, find_java, java_environment, start_of
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.texts import text_of

_WRAPPER = "gradle/wrapper/gradle-wrapper.properties"
_FILES = (
    "build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts", "gradle.properties",
    "gradle.lockfile", "gradle/libs.versions.toml", _WRAPPER, "gradle/verification-metadata.xml",
)  # fmt: skip
_RELEASE = re.compile(r"(?:languageVersion|sourceCompatibility|JavaLanguageVersion\.of)\D{0,40}?(\d+)")
_URL = re.compile(r"^distributionUrl\s*=\s*(\S+)", re.MULTILINE)
_TASKS = ("--no-daemon", "--console=plain", "-x", "test", "assemble")
_REFUSED = re.compile(
    r"distribution|GradleWrapperMain|UnknownHost|ConnectException|Server returned HTTP|FileNotFoundException: http",
)


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this Gradle project. Raises `DetectionError` (gradle_wrapper_missing), `ToolMissingError`."""
    wrapper = [bench.root / name for name in ("gradlew", "gradle/wrapper/gradle-wrapper.jar", _WRAPPER)]
    absent = [path for path in wrapper if not path.is_file()]
    if absent:
        raise DetectionError(
            "Expected Gradle's wrapper (gradlew, gradle/wrapper/gradle-wrapper.jar and .properties), found no "
            f"{', '.join(str(path.relative_to(bench.root)) for path in absent)}. Run `gradle wrapper` and commit all "
            "of it (a .gitignore with *.jar often leaves the jar out).",
            code="gradle_wrapper_missing",
        )
    texts = await asyncio.to_thread(lambda: [text_of(bench.root, name) for name in _FILES])
    asked = _RELEASE.search("\n".join(texts[:2]))
    java = await find_java(bench, least=asked[1] if asked else "8", said_by="build.gradle")
    build = _GradleBuild(bench, java, _URL.search(texts[_FILES.index(_WRAPPER)]))
    lock_hash = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    layer = LayerPlan(
        key_parts=("gradle", java.version, lock_hash),
        lock_hash=lock_hash,
        lock_file=_WRAPPER,
        install=build.install,
        launch=False,
    )
    return LanguagePlan(
        runtime=java.runtime,
        interpreter=java.path,
        start=build.start,
        layer=layer,
        finish=build.finish,
        finish_needs_layer=True,
        start_after_finish=True,
    )


class _GradleBuild:
    """The steps of one Gradle build, and what they share."""

    def __init__(self, bench: Workbench, java: Interpreter, url: re.Match[str] | None) -> None:
        self._bench = bench
        self._java = java
        self._url = url[1].replace("\\:", ":") if url else "its distributionUrl"

    async def install(self) -> Path:
        """Assemble once with the network, in a copy that is thrown away. Raises `StepFailedError`
        (gradle_download_refused, …)."""
        target = self._bench.make_directory("deps")
        await self._gradle(target, await self._bench.working_copy("try"), network=True)
        return target

    async def finish(self, layer: Path | None) -> None:
        """Assemble without the network; only archives are left of what it made."""
        assert layer is not None  # noqa: S101 - `finish_needs_layer`
        await self._bench.log.step("Assembling: gradlew assemble")
        await self._gradle(layer, self._bench.root, network=False)
        await asyncio.to_thread(self._tidy)

    async def _gradle(self, layer: Path, place: Path, *, network: bool) -> None:
        bench = self._bench
        home = bench.work / "home"
        env = bench.environment(
            {
                **java_environment(self._java),
                "GRADLE_USER_HOME": str(layer),
                "GRADLE_OPTS": f"-Duser.home={home} -Dorg.gradle.vfs.watch=false",
                "JAVA_OPTS": f"-Duser.home={home}",
            },
            path=[self._java.path.parent],
        )
        argv = ["/bin/sh", str(place / "gradlew"), *_TASKS, *([] if network else ["--offline"])]
        code = "dependencies_failed" if network else "compile_failed"
        try:
            await bench.run(argv, cwd=place, env=env, code=code, failed="gradlew assemble failed", network=network)
        except StepFailedError as error:
            if network and not await asyncio.to_thread((layer / "caches").is_dir) and self._refused(error):
                raise StepFailedError(
                    f"Gradle's wrapper could not download Gradle itself from {self._url}. Let the builder reach that "
                    "address (HTTPS_PROXY for the platform), or set distributionUrl in gradle/wrapper/"
                    "gradle-wrapper.properties to a mirror that it reaches.",
                    code="gradle_download_refused",
                    lines=error.lines,
                ) from error
            raise

    @staticmethod
    def _refused(error: StepFailedError) -> bool:
        return error.code in ("registry_unreachable", "package_auth_refused", "package_unknown") or any(
            _REFUSED.search(line) for line in error.lines
        )

    def _libraries(self) -> Path:
        return self._bench.root / "build" / "libs"

    def _tidy(self) -> None:
        made = self._bench.root / "build"
        for path in [*([] if made.is_symlink() else made.glob("*")), self._bench.root / ".gradle"]:
            if path.is_dir() and not path.is_symlink() and path.name not in ("libs", "install", "quarkus-app"):
                remove_tree(path)

    async def start(self) -> str:
        """Start the likeliest archive of build/libs. Raises `DetectionError`."""

        def choose() -> str:
            made = archives_in(self._libraries())
            if not made:
                raise DetectionError(
                    "Expected an archive in build/libs after `gradlew assemble`, found none. Apply the java and "
                    "application (or Spring Boot) plugins, or add a Procfile with `web: COMMAND`.",
                    code="no_start_command",
                )
            return start_of(made[0], str(made[0].relative_to(self._bench.root)))

        return await asyncio.to_thread(choose)
