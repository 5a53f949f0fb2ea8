"""npm, yarn and pnpm: which one a project uses, in which version, and how each installs exactly what is locked.

Knows the tools' options and files; it must not know how a project is built or started.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.builder.errors import DetectionError
from actors.builder.languages.node_package import PackageJson
from actors.builder.languages.texts import text_of

LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
_NAMED = re.compile(r"^(?P<name>npm|yarn|pnpm|bun)@(?P<version>\d+\.\d+\.\d+)")
_LOCK_VERSION = re.compile(r"^lockfileVersion:\s*'?(\d+)", re.MULTILINE)
# The last pnpm that writes each version of the lock file, and the last yarn of both kinds.
_PNPM = {"5": "7.33.7", "6": "8.15.9"}
_PNPM_NOW = "10.20.0"
_YARN_CLASSIC = "1.22.22"
_YARN_BERRY = "4.18.1"
_AGAIN = {"npm": "npm install", "yarn": "yarn install", "pnpm": "pnpm install"}


class NodeManager(msgspec.Struct, frozen=True, kw_only=True):
    """The tool that installs: its name and version ("" is the machine's own npm) and the lock file it reads."""

    name: str
    version: str
    lock: str

    @property
    def berry(self) -> bool:
        """Whether this is a yarn with other options and settings than yarn 1."""
        return self.name == "yarn" and not self.version.startswith("1.")

    @property
    def package(self) -> str:
        """What to install the tool from."""
        return f"{'@yarnpkg/cli-dist' if self.berry else self.name}@{self.version}"

    @property
    def script(self) -> str:
        """Its program below the directory it is installed to."""
        if self.name == "pnpm":
            return "node_modules/pnpm/bin/pnpm.cjs"
        return f"node_modules/{'@yarnpkg/cli-dist' if self.berry else 'yarn'}/bin/yarn.js"

    @property
    def again(self) -> str:
        """The command that writes the lock file anew."""
        return _AGAIN[self.name]

    @property
    def settings_files(self) -> tuple[str, ...]:
        """Files beside package.json that change what is installed."""
        return (".npmrc", ".yarnrc.yml", ".yarnrc", "pnpm-workspace.yaml", ".pnpmfile.cjs")

    def install(self, *, development: bool, home: Path) -> list[str]:
        """Arguments that install what is locked and change nothing; `home` is a directory of the build's."""
        if self.name == "npm":
            return ["ci", "--include=dev" if development else "--omit=dev"]
        if self.name == "pnpm":
            # Plain directories, copied: links into a store beside the build would lead nowhere afterwards.
            kept = ["--config.node-linker=hoisted", "--config.package-import-method=copy"]
            kept += [f"--store-dir={home / 'pnpm-store'}", "--reporter=append-only"]
            return ["install", "--frozen-lockfile", *kept, *([] if development else ["--prod"])]
        if self.berry:
            return ["install", "--immutable"] if development else ["workspaces", "focus", "--all", "--production"]
        cache = f"--cache-folder={home / 'yarn-cache'}"
        return ["install", "--frozen-lockfile", "--non-interactive", "--no-progress", cache,
                f"--production={'false' if development else 'true'}"]  # fmt: skip

    def environment(self, home: Path, npm_settings: Mapping[str, str]) -> dict[str, str]:
        """Variables the tool needs beside npm's own."""
        env = {
            "YARN_NODE_LINKER": "node-modules",
            "YARN_ENABLE_TELEMETRY": "0",
            "YARN_ENABLE_GLOBAL_CACHE": "false",
            "YARN_CACHE_FOLDER": str(home / "yarn-cache"),
            "YARN_GLOBAL_FOLDER": str(home / "yarn"),
            "YARN_IGNORE_PATH": "1",  # the project's own copy of yarn is a program of the project
            "npm_config_manage_package_manager_versions": "false",
            "COREPACK_ENABLE_STRICT": "0",
        }
        if registry := npm_settings.get("npm_config_registry"):
            env |= {"YARN_NPM_REGISTRY_SERVER": registry.rstrip("/"), "YARN_REGISTRY": registry}
        if authority := npm_settings.get("npm_config_cafile"):
            env["YARN_HTTPS_CA_FILE_PATH"] = authority
        return env


def choose_manager(root: Path, package: PackageJson) -> tuple[NodeManager | None, list[str]]:
    """The manager by `packageManager`, else by the lock file that is there; also the lock files that are not read.

    None when nothing is to be installed. Blocking. Raises `DetectionError` (lock_missing).
    """
    found = [name for name in LOCKS if (root / name).is_file()]
    if not (package.dependencies or package.devDependencies or package.optionalDependencies or package.workspaces):
        return None, []
    named = _NAMED.match(package.packageManager)
    fitting = [name for name in found if not named or LOCKS[name] == named["name"]]
    lock = next((name for name in fitting if LOCKS[name] != "bun"), None)
    if lock is None:
        raise _no_lock(named["name"] if named else "npm", found)
    tool = LOCKS[lock]
    version = named["version"] if named and tool != "npm" else _version_for(root, tool, lock)
    return NodeManager(name=tool, version=version, lock=lock), [name for name in found if name != lock]


def _version_for(root: Path, tool: str, lock: str) -> str:
    if tool == "npm":
        return ""
    text = text_of(root, lock)
    if tool == "yarn":
        return _YARN_BERRY if "__metadata:" in text else _YARN_CLASSIC
    written = _LOCK_VERSION.search(text)
    return _PNPM.get(written[1], _PNPM_NOW) if written else _PNPM_NOW


def _no_lock(tool: str, found: list[str]) -> DetectionError:
    if tool == "bun" or any(LOCKS[name] == "bun" for name in found):
        return DetectionError(
            "package.json is locked by bun, which is not built here: expected package-lock.json, yarn.lock or "
            "pnpm-lock.yaml. Run `npm install --package-lock-only` and commit package-lock.json.",
            code="lock_missing",
        )
    wanted = {"npm": "package-lock.json", "yarn": "yarn.lock", "pnpm": "pnpm-lock.yaml"}[tool]
    how = "npm install --package-lock-only" if tool == "npm" else _AGAIN[tool]
    return DetectionError(
        f"package.json names dependencies: expected {wanted} beside it, found {', '.join(found) or 'none'}. Run "
        f"`{how}` and commit {wanted}.",
        code="lock_missing",
    )
