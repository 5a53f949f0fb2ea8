"""Maps a Compose file to components, and says of everything that has no counterpart here what becomes of it.

Pure: files and variables come in as text. What is not understood is never dropped in silence.
"""

import re
from collections.abc import Callable, Mapping

import yaml

from actors.compose import values
from actors.compose.interpolate import interpolated, variables_of
from actors.compose.model import ComposeApp, ComposeComponent, ComposeError, Note
from events.model.component_parts import SETTINGS

ReadFile = Callable[[str], str | None]
"""The text of a file named in the Compose file, relative to it; None where there is none."""

MOST_BYTES = 1024 * 1024
_MOST_SERVICES = 200
_MOST_SCALE = 100
_MOST_VALUES = 20_000  # with what aliases repeat
_DEEPEST = 20
_PROXY_PORT = re.compile(r"traefik\..*\.loadbalancer\.server\.port")
_LONGEST_NAME = 40
_PLAIN_TOP = ("version", "name", "services", "volumes", "networks", "secrets", "configs")
_READ = frozenset(
    """
    image build environment env_file ports expose healthcheck deploy scale mem_limit pids_limit ulimits
    stop_grace_period restart depends_on links
    """.split()  # noqa: SIM905 -- forty pairs of quotes otherwise
)
# What changes nothing here: names, labels and the like, and what holds for every instance anyway.
_HARMLESS = frozenset(
    """
    container_name hostname labels annotations tty stdin_open init logging pull_policy platform mem_reservation
    mem_swappiness memswap_limit cpu_shares attach
    """.split()  # noqa: SIM905
)
_LOST = {
    "volumes": "what an instance writes is gone with it: keep data in a database or a store outside the platform",
    "tmpfs": "an instance has a directory of its own for what may be lost: $TMPDIR, or /tmp in a container",
    "command": "an image starts its own command: build one with this CMD in its Dockerfile",
    "entrypoint": "an image starts its own command: build one with this ENTRYPOINT in its Dockerfile",
    "networks": "components are not put on networks of their own",
    "network_mode": "a component has the platform's network",
    "secrets": "set them as variables: rayfold config set --secret NAME=…",
    "configs": "files are not put into instances: build them in, or set variables",
    "extends": "the file or service it names is not read: write out what it stands for",
    "profiles": "it is mapped whatever the profile; leave it out of the file if it is not wanted",
    "privileged": "no instance gets such rights",
    "cap_add": "no instance gets such rights",
    "devices": "no instance gets devices",
    "user": "it runs as the user that its image names",
    "working_dir": "it runs in the directory that its image names",
    "extra_hosts": "names are those of the machine",
    "dns": "names are those of the machine",
    "cpus": "processor time is shared, not limited",
    "stop_signal": "an instance is stopped with SIGTERM",
    "read_only": "an instance may write; what it writes goes with it",
    "pid": "an instance sees its own processes only",
    "ipc": "an instance has a space of its own",
    "security_opt": "the platform sets what an instance may do",
    "sysctls": "the kernel's settings are the machine's",
    "shm_size": "shared memory has the engine's own size",
    "develop": "nothing is watched: deploy again",
}


def map_compose(text: str, *, name: str, variables: Mapping[str, str], read: ReadFile) -> ComposeApp:
    """What the Compose file `text` comes to; `name` is the app's where the file names none. Raises `ComposeError`."""
    if len(text) > MOST_BYTES:
        raise ComposeError(f"expected a Compose file of at most {MOST_BYTES} bytes, found {len(text)}")
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ComposeError(f"expected YAML, found: {' '.join(str(error).split())[:300]}") from error
    services = tree.get("services") if isinstance(tree, dict) else None
    if not isinstance(services, dict) or not services:
        raise ComposeError("expected `services:` with at least one service, found none; is this a Compose file?")
    if len(services) > _MOST_SERVICES:
        raise ComposeError(f"expected at most {_MOST_SERVICES} services, found {len(services)}")
    known = variables_of(read(".env") or "") | dict(variables)
    mapping = _Mapping(known, read)
    for key in tree:
        if key not in _PLAIN_TOP and not str(key).startswith("x-"):
            mapping.note("", str(key), "not read: write out what it stands for")
    named = {str(service): mapping.name_of(str(service)) for service in services}
    twice = sorted({each for each in named.values() if list(named.values()).count(each) > 1})
    if twice:
        raise ComposeError(f"expected services of different names, found more than one that comes to {twice[0]!r}")
    found = [mapping.service(str(service), body, named) for service, body in services.items()]
    app = re.sub(r"[^a-z0-9]+", "-", str(tree.get("name") or name).lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return ComposeApp(name=app or "app", components=_in_order(found), notes=tuple(mapping.notes))


class _Mapping:
    """One file on its way."""

    def __init__(self, variables: Mapping[str, str], read: ReadFile) -> None:
        self._variables = variables
        self._read = read
        self._room = _MOST_VALUES
        self.notes: list[Note] = []

    def note(self, service: str, key: str, text: str) -> None:
        made = Note(service=service, key=key, text=text)
        if made not in self.notes:
            self.notes.append(made)

    def name_of(self, service: str) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", service.lower()).strip("-")[:_LONGEST_NAME].strip("-")
        name = name if name[:1].isalpha() else f"s-{name}".strip("-")[:_LONGEST_NAME]
        if name != service:
            self.note(service, "(name)", f"is called {name} here")
        return name

    def service(self, service: str, body: object, named: Mapping[str, str]) -> ComposeComponent:
        if not isinstance(body, dict):
            raise ComposeError(f"services.{service}: expected keys such as image or build, found {str(body)[:60]!r}")
        filled = {str(key): self._filled(service, value) for key, value in body.items()}
        try:
            component = self._component(service, filled, named)
        except ComposeError as error:
            raise ComposeError(f"services.{service}: {error}") from None
        for key in filled:
            self._tell(service, key, filled)
        return component

    def _filled(self, service: str, value: object, depth: int = 0) -> object:
        """With variables replaced, at every depth; a file that refers to itself ends somewhere."""
        self._room -= 1
        if self._room < 0 or depth > _DEEPEST:
            raise ComposeError(f"services.{service}: the file comes to more than {_MOST_VALUES} values, or too deep")
        if isinstance(value, str):
            return interpolated(value, self._variables, lambda name: self._missing(service, name))
        if isinstance(value, list):
            return [self._filled(service, each, depth + 1) for each in value]
        if isinstance(value, dict):
            return {key: self._filled(service, each, depth + 1) for key, each in value.items()}
        return value

    def _missing(self, service: str, name: str) -> None:
        self.note(service, f"${name}", "has no value and is left empty; set it in .env or the environment")

    def _tell(self, service: str, key: str, filled: Mapping[str, object]) -> None:
        if key in _READ or key in _HARMLESS or key.startswith("x-"):
            return
        if key in ("command", "entrypoint") and filled.get("build") is not None:
            told = values.command_text(filled[key])
            self.note(service, key, f"write it into a Procfile beside the source: web: {told[:200]}")
            return
        self.note(service, key, _LOST.get(key, "has no counterpart here and is left out"))

    def _component(self, service: str, body: Mapping[str, object], named: Mapping[str, str]) -> ComposeComponent:
        image, directory, dockerfile = self._source(service, body)
        http, port = self._ports(service, body)
        settings = self._settings(service, body)
        probe = self._probe(service, body.get("healthcheck"), settings)
        needs = [named[each] for each in self._needs(service, body, named)]
        return ComposeComponent(
            name=named[service], service=service, image=image, directory=directory, dockerfile=dockerfile,
            config=self._config(service, body), http=http, port=port, probe_path=probe if http else "",
            scale=self._scale(service, body), settings=settings, needs=tuple(dict.fromkeys(needs)),
        )  # fmt: skip

    def _source(self, service: str, body: Mapping[str, object]) -> tuple[str, str, str]:
        build, image = body.get("build"), str(body.get("image") or "")
        if build is None and not image:
            raise ComposeError("expected image or build, found neither")
        if build is None:
            return (image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"), "", ""
        told = {"context": build} if isinstance(build, str) else build
        if not isinstance(told, dict):
            raise ComposeError(f"build: expected a directory or keys such as context, found {str(build)[:60]!r}")
        context, dockerfile = str(told.get("context") or "."), str(told.get("dockerfile") or "")
        if context.startswith(("http:", "https:", "git:", "git@")):
            self.note(service, "build.context", "is a URL: deploy it with rayfold deploy URL")
        if dockerfile and dockerfile != "Dockerfile":
            self.note(
                service, "build.dockerfile", f'write [build] dockerfile = "{dockerfile}" into {context}/rayfold.toml'
            )
        for key in told:
            if key not in ("context", "dockerfile"):
                self.note(service, f"build.{key}", "is not handed to the build")
        if image:
            self.note(service, "image", "is built from the source here, and its name is the platform's")
        return "", context, dockerfile

    def _config(self, service: str, body: Mapping[str, object]) -> dict[str, str]:
        found: dict[str, str] = {}
        files = body.get("env_file")
        for each in files if isinstance(files, list) else [files] if files else []:
            path = str(each.get("path", "") if isinstance(each, dict) else each)
            text = self._read(path)
            if text is None:
                self.note(service, "env_file", f"{path} is not there, or not beside the file: it is left out")
            found |= variables_of(text or "")
        for name, value in values.pairs(body.get("environment"), "environment").items():
            if value is None and name not in self._variables:
                self._missing(service, name)
            found[name] = self._variables.get(name, "") if value is None else value
        return found

    def _ports(self, service: str, body: Mapping[str, object]) -> tuple[bool, int | None]:
        published = list(values.ports(body.get("ports")))
        exposed = [each.partition("/") for each in values.names(body.get("expose"), "expose")]
        for each in published:
            if each.protocol != "tcp":
                self.note(service, "ports", f"{each.target}/{each.protocol}: only TCP is routed")
            elif each.published:
                told = f"{each.published} of the machine is not taken: it is reached at a host name through the gateway"
                self.note(service, "ports", told)
        tcp = [each.target for each in published if each.protocol == "tcp"]
        tcp += [int(port) for port, _, kind in exposed if kind in ("", "tcp") and port.isdecimal()]
        tcp += self._routed(service, body)
        wanted = list(dict.fromkeys(tcp))
        if len(wanted) > 1:
            others = ", ".join(map(str, wanted[1:]))
            self.note(service, "ports", f"a component has one port: {wanted[0]} is taken, {others} left out")
        return bool(wanted), wanted[0] if wanted else None

    def _routed(self, service: str, body: Mapping[str, object]) -> list[int]:
        """The port that a proxy's labels name; its host names are said, not taken."""
        labels = values.pairs(body.get("labels"), "labels")
        if any(name.startswith(("traefik.http", "caddy")) or name == "VIRTUAL_HOST" for name in labels):
            self.note(service, "labels", "a proxy's rules are not read: rayfold domains add HOST")
        named = (value or "" for name, value in labels.items() if _PROXY_PORT.fullmatch(name))
        return [int(port) for port in named if port.isdecimal()]

    def _probe(self, service: str, check: object, settings: dict[str, int]) -> str:
        if not isinstance(check, dict) or check.get("disable"):
            return ""
        if check.get("start_period"):
            low, high = SETTINGS["start_timeout_seconds"]
            settings["start_timeout_seconds"] = min(max(values.seconds(check["start_period"]), low, 60), high)
        path = values.probe_of(check.get("test", ""))
        if not path:
            self.note(service, "healthcheck", "is a command: an instance is ready when its port answers")
        return path

    def _settings(self, service: str, body: Mapping[str, object]) -> dict[str, int]:
        deploy = body.get("deploy")
        limits = _within(deploy, "resources", "limits")
        found: dict[str, int] = {}
        if memory := limits.get("memory", body.get("mem_limit")):
            found["memory_bytes"] = values.size(memory)
        if pids := limits.get("pids", body.get("pids_limit")):
            found["processes"] = int(str(pids)) if str(pids).isdecimal() else 0
        nofile = _within(body, "ulimits").get("nofile")
        if nofile is not None:
            hard = nofile.get("hard") if isinstance(nofile, dict) else nofile
            found["open_files"] = int(str(hard)) if str(hard).isdecimal() else 0
        if grace := body.get("stop_grace_period"):
            found["grace_seconds"] = values.seconds(grace)
        if limits.get("cpus"):
            self.note(service, "deploy.resources", "processor time is shared, not limited")
        if str(body.get("restart", "always")) in ("no", "False", "on-failure"):
            self.note(service, "restart", "what ends is started again; for a command that runs once: rayfold run")
        for key, value in list(found.items()):
            low, high = SETTINGS[key]
            if not low <= value <= high:
                self.note(service, key, f"expected {low} to {high}, found {value}: the default is taken")
                del found[key]
        return found

    def _scale(self, service: str, body: Mapping[str, object]) -> int:
        deploy = body.get("deploy")
        asked = str(_within(deploy).get("replicas", body.get("scale", 1)))
        if not asked.isdecimal() or int(asked) > _MOST_SCALE:
            raise ComposeError(f"replicas: expected 0 to {_MOST_SCALE}, found {asked[:20]!r}")
        if _within(deploy).get("mode") == "global":
            self.note(service, "deploy.mode", "one on each node cannot be asked for: rayfold ps scale sets a number")
        return int(asked)

    def _needs(self, service: str, body: Mapping[str, object], named: Mapping[str, str]) -> list[str]:
        depends = body.get("depends_on")
        found = values.names(depends, "depends_on")
        found += [each.partition(":")[0] for each in values.names(body.get("links"), "links")]
        for each in found:
            if each not in named:
                raise ComposeError(f"depends_on: expected one of {', '.join(sorted(named))}, found {each[:60]!r}")
        conditions = depends.values() if isinstance(depends, dict) else ()
        if any(_within(each).get("condition") == "service_completed_successfully" for each in conditions):
            self.note(service, "depends_on", "nothing waits for a service to end: run it first with rayfold run")
        if found:
            told = ", ".join(dict.fromkeys(named[each] for each in found))
            self.note(service, "depends_on", f"names are not resolved to {told}: set addresses as variables")
        return found


def _within(value: object, *keys: str) -> dict[str, object]:
    """The map at `keys`, empty where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _in_order(components: list[ComposeComponent]) -> tuple[ComposeComponent, ...]:
    """Each after what it needs, else as in the file. Raises `ComposeError` for a circle."""
    left, done = list(components), list[ComposeComponent]()
    while left:
        ready = [each for each in left if not set(each.needs) - {made.name for made in done}]
        if not ready:
            raise ComposeError(f"depends_on goes round in a circle: {', '.join(each.service for each in left)}")
        done.append(ready[0])
        left.remove(ready[0])
    return tuple(done)
