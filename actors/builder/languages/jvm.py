"""What all Java builds share: the Java that fits, archives and their main class, and how an archive is started.

It must not know Maven or Gradle.
"""

import asyncio
import re
import shlex
import zipfile
from pathlib import Path

from actors.builder.errors import DetectionError
from actors.builder.interpreters import Interpreter, find_fitting
from actors.builder.languages.plan import Workbench
from actors.builder.languages.texts import text_of

# RAYFOLD_MEMORY_BYTES is what the instance may have; left alone, the JVM sizes itself by the machine.
JAVA = "java -XX:MaxRAM=${RAYFOLD_MEMORY_BYTES:-536870912} -XX:MaxRAMPercentage=60 -XX:+UseSerialGC"
# Where a servlet container for a web archive that brings none is put, beside the application.
RUNNER_JAR = ".rayfold/webapp-runner.jar"
_SYSTEM_PROPERTIES = "system.properties"
_RUNTIME_VERSION = re.compile(r"^\s*java\.runtime\.version\s*[=:]\s*(?:1\.)?(\d+)", re.MULTILINE)
_MAIN_CLASS = re.compile(r"^Main-Class:\s*\S+", re.MULTILINE)
_NOT_THE_PROGRAM = re.compile(r"^original-|-(?:sources|javadoc|tests|plain)\.jar$")
_MANIFEST = "META-INF/MANIFEST.MF"
_LONGEST_MANIFEST = 1024 * 1024


async def find_java(bench: Workbench, *, least: str = "", said_by: str = "") -> Interpreter:
    """The Java to use: exactly what system.properties asks for, else at least `least`, which `said_by` asks for.

    Raises `ToolMissingError`.
    """
    exact = _RUNTIME_VERSION.search(await asyncio.to_thread(text_of, bench.root, _SYSTEM_PROPERTIES))
    asked = f"{_SYSTEM_PROPERTIES} asks for Java {exact[1]}" if exact else f"{said_by} asks for Java {least} or later"

    def accept(version: str) -> bool:
        major = int(version.split(".")[0])
        return major == int(exact[1]) if exact else major >= int(least or 0)

    java = await asyncio.to_thread(find_fitting, "java", accept=accept, asked=asked, for_others=bench.for_others)
    await bench.log.detail(f"Java {java.version} ({java.path})")
    return java


def java_environment(java: Interpreter) -> dict[str, str]:
    """Variables that make build tools take exactly this Java."""
    return {"JAVA_HOME": str(java.path.resolve().parent.parent)}


def is_executable(archive: Path) -> bool:
    """Whether the manifest of a jar or war names a main class; False for what is no archive. Blocking."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(_MANIFEST) as stream:
            return bool(_MAIN_CLASS.search(stream.read(_LONGEST_MANIFEST).decode("utf-8", "replace")))
    except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError):
        return False


def archives_in(directory: Path) -> list[Path]:
    """Jars and wars that could be the program, the likeliest (executable, then larger) first. Blocking."""
    found = [path for path in directory.glob("*.?ar") if path.suffix in (".jar", ".war") and path.is_file()]
    fit = [path for path in found if not _NOT_THE_PROGRAM.search(path.name)]
    return sorted(fit, key=lambda path: (not is_executable(path), -path.stat().st_size, path.name))


def start_of(archive: Path, shown: str) -> str:
    """The command that runs `archive`, called `shown` from where it runs. Raises `DetectionError`. Blocking."""
    if is_executable(archive):
        return f"{JAVA} $JAVA_OPTS -jar {shlex.quote(shown)}"
    if archive.suffix == ".war":
        # It unpacks the archive, and only the instance's own directory may be written to.
        scratch = '"${RAYFOLD_HOME:-/tmp}/webapp.$PORT"'
        return f"{JAVA} $JAVA_OPTS -jar {RUNNER_JAR} --port $PORT --temp-directory {scratch} {shlex.quote(shown)}"
    raise DetectionError(
        f"Expected an archive that can be started, found {archive.name} without a Main-Class in its manifest. Let the "
        "build make an executable jar (Maven: maven-jar-plugin's mainClass or spring-boot-maven-plugin; Gradle: the "
        "application or Spring Boot plugin), or add a Procfile: `web: java -cp ARCHIVE MAIN_CLASS`.",
        code="jar_not_executable",
    )
