"""Builds Ruby applications: Bundler's gems from the lock file into a layer, started by what config.ru or Rails needs.

A bundle with gems inside the source (path:) is installed all the same, for Bundler reads those in place; this must not
know how artifacts are stored.
"""

import asyncio
import hashlib
import re
from pathlib import Path

from actors.builder.errors import DetectionError, StepFailedError, ToolMissingError
from actors.builder.interpreters import Interpreter, find_fitting, find_program
from actors.builder.languages.beside import forget
from actors.builder.languages.plan import LanguagePlan, LayerPlan, Workbench
from actors.builder.languages.texts import first_version, text_of
from actors.builder.versions import fits

_GEMFILE = "Gemfile"
_LOCK = "Gemfile.lock"
_CACHE = "vendor/cache"
_RUBY_LINE = re.compile(r"""^\s*ruby\s+["']([^"'\n]+)["']""", re.MULTILINE)
_GEM = r"^    {0} \("
_ENTRY_FILES = ("app.rb", "server.rb", "main.rb", "web.rb")
_OUT_OF_STEP = (
    "Gemfile.lock", "deployment mode", "frozen mode", "The dependencies in your gemfile changed", "is not in the lock",
)  # fmt: skip


def has_gem(lock: str, name: str) -> bool:
    """Whether the lock file holds the gem."""
    return re.search(_GEM.format(re.escape(name)), lock, re.MULTILINE) is not None


def default_start(root: Path) -> str:
    """The start command without a Procfile; the rules are here, in order. Blocking. Raises `DetectionError`."""
    lock = text_of(root, _LOCK)
    if (root / "config.ru").is_file():
        if has_gem(lock, "puma"):
            return "bundle exec puma -b tcp://127.0.0.1:$PORT"
        if has_gem(lock, "rails"):
            return "bundle exec rails server -b 127.0.0.1 -p $PORT"
        return "bundle exec rackup -o 127.0.0.1 -p $PORT config.ru"
    for name in _ENTRY_FILES:
        if (root / name).is_file():
            return f"bundle exec ruby {name}"
    raise DetectionError(
        f"Expected a Procfile, config.ru or one of {', '.join(_ENTRY_FILES)}; found none of them. Add a Procfile: "
        "`web: bundle exec ruby YOUR_FILE.rb`.",
        code="no_start_command",
    )


def wanted_version(root: Path) -> tuple[str, str]:
    """The range of Ruby versions asked for ("" for any), and which file says so. Blocking."""
    if own_file := first_version(text_of(root, ".ruby-version")):
        return own_file, ".ruby-version"
    line = _RUBY_LINE.search(text_of(root, _GEMFILE))
    return (line[1] if line else ""), _GEMFILE


async def plan(bench: Workbench) -> LanguagePlan:
    """How to build this Ruby application. Raises `DetectionError` (lock_missing), `ToolMissingError`."""
    gemfile = await asyncio.to_thread(text_of, bench.root, _GEMFILE)
    lock = await asyncio.to_thread(text_of, bench.root, _LOCK)
    if not lock:
        raise DetectionError(
            "Expected Gemfile.lock beside Gemfile, found none. Run `bundle lock` and commit Gemfile.lock.",
            code="lock_missing",
        )
    wanted, said_by = await asyncio.to_thread(wanted_version, bench.root)
    ruby = await asyncio.to_thread(
        find_fitting,
        "ruby",
        accept=lambda version: fits(version, wanted, "ruby"),
        asked=f"{said_by} asks for Ruby {wanted}",
        for_others=bench.for_others,
    )
    await bench.log.detail(f"Ruby {ruby.version} ({ruby.path})")
    build = _RubyBuild(bench, ruby, gemfile, lock)

    async def start() -> str:
        return await asyncio.to_thread(default_start, bench.root)

    return LanguagePlan(
        runtime=ruby.runtime,
        interpreter=ruby.path,
        start=start,
        layer=build.layer(),
        env=_bundle_settings("{deps}/gems") | {"RACK_ENV": "production", "RAILS_ENV": "production"},
    )


def _bundle_settings(path: str) -> dict[str, str]:
    """Bundler's settings as variables; a directory that is not there instead of the source's own .bundle/config."""
    return {
        "BUNDLE_PATH": path,
        "BUNDLE_WITHOUT": "development:test",
        "BUNDLE_FROZEN": "true",
        "BUNDLE_APP_CONFIG": f"{path}/.bundle",
        "BUNDLE_DISABLE_VERSION_CHECK": "true",
    }


class _RubyBuild:
    """The steps of one Ruby build, and what they share."""

    def __init__(self, bench: Workbench, ruby: Interpreter, gemfile: str, lock: str) -> None:
        self._bench = bench
        self._ruby = ruby
        self._lock_hash = hashlib.sha256(f"{gemfile}\0{lock}".encode()).hexdigest()

    def layer(self) -> LayerPlan:
        """The gems, by Gemfile, Gemfile.lock and Ruby's version."""
        return LayerPlan(
            key_parts=("ruby", self._ruby.version, self._lock_hash),
            lock_hash=self._lock_hash,
            lock_file=_LOCK,
            install=self._install,
        )

    async def _install(self) -> Path:
        bench = self._bench
        target = bench.make_directory("deps")
        program = find_program("bundle", for_others=bench.for_others)
        if program is None:
            raise ToolMissingError(
                "Expected bundle for all users beside ruby, found none. Install it on the builder's machine: apt-get "
                "install bundler.",
                code="bundler_missing",
            )
        local = ["--local"] if (bench.root / _CACHE).is_dir() else []
        own = _bundle_settings(str(target / "gems")) | {"BUNDLE_USER_HOME": str(bench.work / "home" / ".bundle")}
        env = bench.environment(own, path=[self._ruby.path.parent, program.parent])
        argv = [str(self._ruby.path), str(program.resolve()), "install", "--jobs=2", "--retry=2", *local]
        failed = "Bundler could not install what Gemfile.lock asks for"
        try:
            await bench.run(argv, cwd=bench.root, env=env, code="dependencies_failed", failed=failed, network=True)
        except StepFailedError as error:
            out_of_step = error.code == "dependencies_failed" and any(
                sign in line for line in error.lines for sign in _OUT_OF_STEP
            )
            if out_of_step:
                raise StepFailedError(
                    "Gemfile and Gemfile.lock say different things; expected one to follow from the other. Run `bundle "
                    "lock` and commit Gemfile.lock.",
                    code="lock_out_of_step",
                    lines=error.lines,
                ) from error
            raise
        if not (target / "gems").is_symlink():
            for cache in await asyncio.to_thread(lambda: list(target.glob("gems/ruby/*/cache"))):
                if cache.resolve().is_relative_to(target.resolve()):
                    await asyncio.to_thread(forget, cache)
        return target
