"""What every command shares: the options all of them take, and the platform, app and output they lead to.

Knows how an app is found from context; nothing of any one command.
"""

import difflib
import inspect
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec

import typer

from api.cli.client import ApiClient, Query, quote
from api.cli.document import Document
from api.cli.errors import ApiProblem, CliError, ExitCode
from api.cli.output import Output
from api.cli.place import data_dir, find_address

DEFAULT_TEAM = "default"
DEFAULT_COMPONENT = "web"
MAX_NAME = 40
PAGE = 500  # the most a list gives at once
_CONTEXT_FILE = "rayfold.toml"
P = ParamSpec("P")


@dataclass(kw_only=True)
class Session:
    """The common options as far as they are given, and what follows from them."""

    data: Path | None = None
    app: str = ""
    team: str = ""
    component: str = ""
    out: Output = field(default_factory=Output)
    directory: Path = field(default_factory=Path.cwd)
    said: dict[str, str] = field(default_factory=dict)  # a stream that was named otherwise → how

    @cached_property
    def data_dir(self) -> Path:
        """The platform's data directory."""
        return data_dir(self.data)

    @cached_property
    def client(self) -> ApiClient:
        """The platform's API. Raises CliError when there is none."""
        return ApiClient(find_address(self.data_dir))

    @cached_property
    def team_name(self) -> str:
        """The team: `--team`, else RAYFOLD_TEAM, else rayfold.toml, else `default`."""
        return self.team or os.environ.get("RAYFOLD_TEAM", "") or _from_file(self.directory, "team") or DEFAULT_TEAM

    @property
    def component_name(self) -> str:  # not cached: some commands go from one component to the next
        """The component: `--component`, else `web`."""
        return self.component or DEFAULT_COMPONENT

    @cached_property
    def app_name(self) -> str:
        """The app: `--app`, else RAYFOLD_APP, else rayfold.toml, else the directory's name. Says which on stderr."""
        if self.app:
            return self.app
        name, why = self._app_from_context()
        self.out.say(f"app {name} (from {why}; another: --app)")
        return name

    def _app_from_context(self) -> tuple[str, str]:
        if os.environ.get("RAYFOLD_APP"):
            return os.environ["RAYFOLD_APP"], "RAYFOLD_APP"
        from_file = _from_file(self.directory, "app")
        if from_file:
            return from_file, _CONTEXT_FILE
        name = normalised(self.directory.name)
        if not name:
            raise CliError(
                f"expected to find the app's name, found none in {self.directory}",
                exit_code=ExitCode.USAGE,
                hint=f'give it with --app NAME, or put `app = "name"` into {_CONTEXT_FILE}',
            )
        return name, f"the directory {self.directory.name}"

    def team_path(self, *rest: str) -> str:
        """`/v1/teams/{team}/…`."""
        return "/".join(["/v1/teams", quote(self.team_name), *map(quote, rest)])

    def app_path(self, *rest: str) -> str:
        """`/v1/teams/{team}/apps/{app}/…`."""
        return self.team_path("apps", self.app_name, *rest)

    def component_path(self, *rest: str) -> str:
        """`/v1/teams/{team}/apps/{app}/components/{component}/…`."""
        return self.app_path("components", self.component_name, *rest)

    def components(self) -> list[Document]:
        """The app's components. Raises CliError with the nearest names when there is no such app."""
        with self.explained():
            return self.client.items(self.app_path("components"))

    def read(self, *rest: str, query: Query | None = None) -> Document:
        """GET below the component."""
        with self.explained():
            return self.client.get(self.component_path(*rest), query)

    def listed(self, *rest: str, limit: int = 0) -> list[Document]:
        """The objects of a list below the component, or the first `limit`."""
        with self.explained():
            query = {"limit": min(limit, PAGE)} if limit else None
            return self.client.items(self.component_path(*rest), query, limit)

    def write(self, method: str, *rest: str, body: object = None, query: Query | None = None) -> Document:
        """A write on the component."""
        with self.explained():
            return self.client.send(method, self.component_path(*rest), body, query=query)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A 404 inside names the app or component that is missing, and the nearest ones there are."""
        try:
            yield
        except ApiProblem as problem:
            if problem.status == 404:
                self.explain_missing(problem)
            raise

    def in_their_words(self, error: CliError) -> CliError:
        """The error, with each stream that is named in it as whoever typed the command named it."""
        for name, text in self.said.items():
            error.message = error.message.replace(name, text)
        return error

    def explain_missing(self, problem: ApiProblem) -> None:
        """Raise a better word than 404 when the app or the component of this session is what is missing."""
        apps = {item.text("app"): item.words("components") for item in self.client.items(self.team_path("apps"))}
        if self.app_name not in apps:
            raise _missing("app", self.app_name, list(apps), "rayfold deploy, or rayfold apps create NAME", problem)
        known = apps[self.app_name]
        if self.component_name not in known:
            raise _missing(
                "component", f"{self.app_name}/{self.component_name}", [f"{self.app_name}/{n}" for n in known],
                "rayfold components", problem,
            )  # fmt: skip


def _missing(what: str, name: str, known: list[str], otherwise: str, problem: ApiProblem) -> CliError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else otherwise
    there = f"; there are: {', '.join(sorted(known)[:8])}" if known and not near else ""
    return CliError(
        f"no {what} {name}{there}",
        exit_code=ExitCode.NOT_FOUND,
        hint=hint,
        code=problem.code,
        request_id=problem.request_id,
    )


def normalised(text: str) -> str:
    """A directory's name as an app's name: `My_Shop 2` → `my-shop-2`; empty when nothing is left."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = re.sub(r"^[^a-z]+", "", name)
    return name[:MAX_NAME].rstrip("-")


def _from_file(directory: Path, key: str) -> str:
    path = directory / _CONTEXT_FILE
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8")).get(key)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise CliError(f"{path} cannot be read: {error}", exit_code=ExitCode.USAGE, hint="correct it") from error
    if value is not None and not isinstance(value, str):
        raise CliError(f"{path}: expected text for `{key}`, found {value!r}", exit_code=ExitCode.USAGE)
    return value or ""


# --- the options every command takes ----------------------------------------------------------------------------------

_PANEL = "Options of every command"
_COMMON: dict[str, object] = {
    "app": Annotated[
        str, typer.Option("--app", "-a", help="The app; else from the directory.", rich_help_panel=_PANEL)
    ],
    "team": Annotated[str, typer.Option("--team", help="The team.", rich_help_panel=_PANEL)],
    "component": Annotated[
        str, typer.Option("--component", "-c", help="The component; web by default.", rich_help_panel=_PANEL)
    ],
    "data": Annotated[
        Path | None, typer.Option("--data", help="The platform's data directory.", rich_help_panel=_PANEL)
    ],
    "json": Annotated[bool, typer.Option("--json", help="JSON on stdout.", rich_help_panel=_PANEL)],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="No talk on stderr.", rich_help_panel=_PANEL)],
}


def _adopt(ctx: typer.Context, given: dict[str, object]) -> Session:
    session = ctx.find_root().ensure_object(Session)
    for name in ("app", "team", "component"):
        if given[name]:
            setattr(session, name, str(given[name]))
    if isinstance(given["data"], Path):
        session.data = given["data"]
    session.out.as_json = session.out.as_json or given["json"] is True
    session.out.quiet = session.out.quiet or given["quiet"] is True
    return session


def takes_session(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Make a command of `function`: it gets the Session, its command line gets the common options.

    As a group's callback it runs only when no sub-command was named, so that a bare noun lists.
    """

    @wraps(function)
    def run(ctx: typer.Context, *args: P.args, **kwargs: P.kwargs) -> None:
        given = {name: kwargs.pop(name) for name in _COMMON}
        session = _adopt(ctx, given)
        if ctx.invoked_subcommand is None:
            function(session, *args, **kwargs)

    own = inspect.signature(function, eval_str=True)
    taken = list(own.parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=annotation)
        for name, annotation in _COMMON.items()
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in taken]
    signature = own.replace(parameters=[context, *keyword, *common])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    del run.__wrapped__  # typer would read the parameters of the wrapped function instead
    return run


def _default(name: str) -> object:
    return {"json": False, "quiet": False, "data": None}.get(name, "")


def on_terminal() -> bool:
    """Whether progress may be drawn in place."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
