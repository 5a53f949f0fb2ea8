"""Says how a source tree would be built and run without building it: framework, version, command, memory.

Reads files only and runs nothing, so it answers offline and without a platform; what only building tells is left open.
"""

import re
from pathlib import Path

import msgspec

from actors.builder.catalogue import FRAMEWORKS, Framework
from actors.builder.declared import Declared, read_declared
from actors.builder.detect import Detection, Hit, detect, dockerfiles
from actors.builder.errors import DetectionError
from actors.builder.languages import go, node, php, python, ruby
from actors.builder.languages.jvm import start_of
from actors.builder.languages.node_managers import choose_manager
from actors.builder.languages.node_package import read_package, static_output
from actors.builder.languages.python_locks import LOCKS as PYTHON_LOCKS
from actors.builder.languages.static import start_of_site
from actors.builder.languages.texts import text_of

_DEPENDENCY_FILES = {
    "python": ("requirements.txt", "pyproject.toml", "Pipfile", "setup.py", "setup.cfg"),
    "java": ("pom.xml", "build.gradle", "build.gradle.kts"),
    "php": ("composer.json",),
    "ruby": ("Gemfile", "Gemfile.lock"),
    "go": ("go.mod",),
}
_AFTER_BUILDING = "known after building"


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """How the tree would be built. `start_command` None: nothing says how, and `problem` tells the fix.

    `port`: what the framework listens on by itself; here every application is told its port in $PORT.
    """

    language: str
    title: str
    because: str
    rule: str
    framework: str | None
    package_manager: str | None
    version_wanted: str | None
    version_from: str | None
    processes: dict[str, str]
    processes_from: str
    release_command: str | None
    port: int | None
    memory_bytes: int
    hits: tuple[Hit, ...]
    dockerfiles: tuple[str, ...]
    warnings: tuple[str, ...]
    problem: str | None = None
    problem_code: str | None = None


def propose(root: Path) -> Proposal:
    """Look at the tree `root`. Blocking. Raises `DetectionError`, `SettingsError`, `ProcfileError`, `SourceError`."""
    declared = read_declared(root)
    found = detect(declared.root, explicit=declared.settings.language, said_by=declared.language_from)
    reading = _Reading(declared, found)
    processes, origin, problem = reading.processes()
    version, version_from = reading.version()
    framework = reading.framework()
    return Proposal(
        language=found.language,
        title=found.known.title,
        because=found.because,
        rule=found.rule,
        framework=framework.title if framework else None,
        package_manager=reading.package_manager(),
        version_wanted=version or None,
        version_from=version_from if version else None,
        processes=processes,
        processes_from=origin,
        release_command=declared.procfile.release,
        port=declared.settings.port or (framework.port if framework else None),
        memory_bytes=found.known.memory_bytes,
        hits=found.hits,
        dockerfiles=dockerfiles(declared.root),
        warnings=declared.warnings,
        problem=str(problem) if problem else None,
        problem_code=problem.code if problem else None,
    )


class _Reading:
    """The files of one tree, read for one language."""

    def __init__(self, declared: Declared, found: Detection) -> None:
        self._declared = declared
        self._root = declared.root
        self._found = found
        self._language = found.language

    @property
    def _family(self) -> str:
        return "java" if self._language.startswith("java-") else self._language

    def framework(self) -> Framework | None:
        """The first framework of the catalogue among what the project depends on."""
        if self._language == "node":
            return read_package(text_of(self._root, "package.json") or "{}").framework()
        text = "\n".join(text_of(self._root, name) for name in _DEPENDENCY_FILES.get(self._family, ())).lower()
        for each in FRAMEWORKS:
            named = rf"(?<![\w.-]){re.escape(each.dependency)}(?![\w-]*\w\s*:\s*/)"
            if each.language == self._family and re.search(named, text):
                return each
        return None

    def package_manager(self) -> str | None:
        """The tool that installs dependencies."""
        if self._language == "node":
            package = read_package(text_of(self._root, "package.json") or "{}")
            try:
                manager, _ = choose_manager(self._root, package)
            except DetectionError:
                return None
            return manager.name if manager else None
        if self._language == "python":
            locks = [name for name in PYTHON_LOCKS if (self._root / name).is_file()]
            if locks and not (self._root / "requirements.txt").is_file():
                return PYTHON_LOCKS[locks[0]].tool.name
            return "pip"
        usual = {"php": "composer", "ruby": "bundler", "go": "go", "java-maven": "maven", "java-gradle": "gradle"}
        return usual.get(self._language)

    def version(self) -> tuple[str, str]:
        """The version of the language asked for ("" for any), and the file that asks."""
        match self._family:
            case "python":
                return python.wanted_version(self._root)[:2]
            case "node":
                return node.wanted_version(self._root, read_package(text_of(self._root, "package.json") or "{}"))
            case "go":
                return go.wanted_version(self._root), "go.mod"
            case "php":
                return php.wanted_version(self._root), "composer.json"
            case "ruby":
                return ruby.wanted_version(self._root)
            case "java":
                text = text_of(self._root, "system.properties")
                match = re.search(r"java\.runtime\.version\s*[=:]\s*(\S+)", text)
                return (match[1] if match else ""), "system.properties"
        return "", ""

    def processes(self) -> tuple[dict[str, str], str, DetectionError | None]:
        """What would be started, which file says so, and what is wrong if nothing does."""
        if self._declared.procfile.processes:
            return self._declared.procfile.processes, "Procfile", None
        if named := {name: text for name, text in self._declared.settings.processes.items() if name != "release"}:
            return named, self._declared.language_from, None
        try:
            return {"web": self._start()}, "found in the source", None
        except DetectionError as error:
            return {}, "nothing", error

    def _start(self) -> str:
        root, explicit = self._root, self._declared.settings.static_root
        match self._language:
            case "python":
                return python.default_start(root, python.read_any(root))
            case "node":
                package = read_package(text_of(root, "package.json"))
                output = explicit or static_output(root, package)
                return f"serve {output}/ as static files" if output else node.default_start(root, package)
            case "go":
                return go.default_start(root)
            case "php":
                return php.default_start(root, explicit)
            case "ruby":
                return ruby.default_start(root)
            case "static":
                return start_of_site(root, explicit)
            case "java-jar" | "java-war":
                return start_of(root / self._found.because, self._found.because)
        return _AFTER_BUILDING
