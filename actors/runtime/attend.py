"""The program that stands for one container: it makes and starts it, copies its output, and ends as it ended.

The shim keeps it as it keeps any command, so that output, exit, stopping and adoption are those of every instance. It
reads the instance's spec.json, speaks the Docker API with the standard library alone (one of it runs for each
container), and knows nothing else of the platform. Killed, it leaves the container to whoever sweeps: containers.py.
"""

# Few imports and no pathlib: they would cost every container's attendant memory.
# ruff: noqa: PTH118, PTH123

import http.client
import json
import os
import resource
import signal
import socket
import struct
import sys
import time

API = "/v1.41"
OOM_FILE = "oom"
EXIT_NOT_STARTED = 125
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_CALL_SECONDS = 60.0
_WAIT_SECONDS = 2.0
_RETRY_SECONDS = 0.5
_DROPPED = ("NET_RAW", "MKNOD", "AUDIT_WRITE")
_HEADER = struct.Struct(">BxxxL")
_READ_BYTES = 1 << 16


class NotStarted(Exception):
    """The container cannot run; the message is for the application's log."""


class _Connection(http.client.HTTPConnection):
    """HTTP over the engine's socket."""

    def __init__(self, address: str, seconds: "float | None") -> None:
        scheme, _, rest = address.partition("://")
        self._path = rest if scheme == "unix" else ""
        super().__init__("engine" if self._path else rest, timeout=seconds)

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Attendant:
    """One container, by its name."""

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._path = f"{API}/containers/{name}"
        self._name = name
        self._started = False
        self._asked: list[int] = []

    def call(
        self, method: str, path: str, body: "object | None" = None, seconds: float = _CALL_SECONDS
    ) -> "tuple[int, dict[str, object]]":
        """Status and JSON of one call. Raises OSError when the engine is away."""
        connection = _Connection(self._address, seconds)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        return answer.status, found if isinstance(found, dict) else {}

    def forward(self, number: int, _frame: object) -> None:
        """Hand a signal on; one that comes before the start is kept for it."""
        if not self._started:
            self._asked.append(number)
            return
        try:
            self.call("POST", f"{self._path}/kill?signal={signal.Signals(number).name}")
        except OSError as error:
            say(f"the container engine is away, {signal.Signals(number).name} did not arrive: {error}")

    def create(self, body: "dict[str, object]") -> None:
        """Make the container, unless an attendant before us made it. Raises NotStarted."""
        status, found = self.call("POST", f"{API}/containers/create?name={self._name}", body)
        if status not in (201, 409):
            raise NotStarted(f"the container cannot be made: {found.get('message', status)}")

    def start(self) -> None:
        """Start it. Raises NotStarted."""
        status, found = self.call("POST", f"{self._path}/start")
        if status not in (204, 304):
            raise NotStarted(f"the container cannot be started: {found.get('message', status)}")
        self._started = True
        for number in self._asked:
            self.forward(number, None)

    def attach(self, before: bool) -> socket.socket:
        """Its output from now on; `before`: it has not been started yet. Raises OSError, NotStarted."""
        connection = _Connection(self._address, _CALL_SECONDS)
        connection.connect()
        sock = connection.sock
        # Taken over by hand: once the engine has answered, the connection is no HTTP any more.
        sock.sendall(
            f"POST {self._path}/attach?stream=1&stdout=1&stderr=1&logs=0 HTTP/1.1\r\nHost: engine\r\nUpgrade: tcp\r\n"
            "Connection: Upgrade\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                raise OSError("the engine closed the connection")
            head += byte
        status = head.split(b" ", 2)[1]
        if status not in (b"101", b"200"):
            told = sock.recv(_READ_BYTES).decode("utf-8", "replace").strip()
            raise (NotStarted if before else OSError)(f"the container cannot be started: {told or status.decode()}")
        sock.settimeout(None)
        return sock

    def state(self) -> "dict[str, object] | None":
        """How it ended; None while it runs. Waits for an engine that is away."""
        away = False
        while True:
            try:
                try:
                    self.call("POST", f"{self._path}/wait?condition=not-running", seconds=_WAIT_SECONDS)
                except TimeoutError:
                    pass
                status, found = self.call("GET", f"{self._path}/json")
            except OSError as error:
                if not away:
                    say(f"the container engine is away: {error}")
                    away = True
                time.sleep(_RETRY_SECONDS)
                continue
            if status == 404:
                raise NotStarted("the container is gone, and nobody saw how it ended")
            state = found.get("State")
            if isinstance(state, dict):
                return None if state.get("Running") else state
            time.sleep(_RETRY_SECONDS)

    def follow(self, output: socket.socket) -> "dict[str, object]":
        """Copy its output until it is over; how it ended. A break in between is said in the output."""
        while True:
            copy(output)
            output.close()
            state = self.state()
            if state is not None:
                return state
            try:
                output = self.attach(before=False)
            except OSError:
                time.sleep(_RETRY_SECONDS)
                continue
            say("the container engine was away: what was written meanwhile is not in this log")

    def remove(self) -> None:
        """Take it away; who sweeps does it otherwise."""
        try:
            self.call("DELETE", f"{self._path}?force=1&v=1")
        except OSError:
            pass


def say(text: str) -> None:
    """A word of our own among the output."""
    sys.stderr.write(f"[rayfold] {text}\n")
    sys.stderr.flush()


def copy(source: socket.socket) -> None:
    """Frames of the engine to our own output and error, until the stream ends."""
    try:
        while head := _exactly(source, _HEADER.size):
            kind, left = _HEADER.unpack(head)
            while left:
                chunk = source.recv(min(left, _READ_BYTES))
                if not chunk:
                    return
                left -= len(chunk)
                _write(2 if kind == 2 else 1, chunk)
    except ConnectionError:
        return


def _exactly(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = source.recv(size - len(found))
        if not more:
            return b""
        found += more
    return found


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def body_of(setup: "dict[str, object]", labels: "dict[str, str]") -> "dict[str, object]":
    """What the engine is asked to make of an instance's spec.json."""
    spec = setup["spec"]
    assert isinstance(spec, dict)  # noqa: S101 -- written by the platform itself
    image, limits, environment = spec["image"], spec["limits"], dict(spec["env"])
    port = setup["port"]
    inside = image["port"] or port
    exposed: dict[str, object] = {}
    bound: dict[str, object] = {}
    if port is not None:
        environment["PORT"] = str(inside)
        exposed = {f"{inside}/tcp": {}}
        bound = {f"{inside}/tcp": [{"HostIp": setup["host"], "HostPort": str(port)}]}
    body: dict[str, object] = {
        "Image": image["reference"],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels,
        "ExposedPorts": exposed,
        "HostConfig": {
            "PortBindings": bound,
            "Memory": limits["memory_bytes"],
            "MemorySwap": limits["memory_bytes"],
            "PidsLimit": limits["processes"],
            "Ulimits": _ulimits(nofile=limits["open_files"]),
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": list(_DROPPED),
            # Nothing of it is kept twice: the output is copied from here, and numbered and bounded by the platform.
            "LogConfig": {"Type": "none"},
        },
    }
    if not image["as_is"]:
        body["Entrypoint"] = []
        body["Cmd"] = ["/bin/sh", "-c", spec["command"]]
    return body


def _ulimits(nofile: int) -> "list[dict[str, object]]":
    """Of files, and of processes what we may have ourselves: podman asks for more of those, which a machine may refuse.

    How many processes the container has is bounded by PidsLimit; this one counts a user's processes of all containers.
    """
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    found: list[dict[str, object]] = [{"Name": "nofile", "Soft": nofile, "Hard": nofile}]
    if processes != resource.RLIM_INFINITY:
        found.append({"Name": "nproc", "Soft": processes, "Hard": processes})
    return found


def run(directory: str, address: str, name: str, home: str) -> "tuple[int, int]":
    """Exit code and signal (0: none) of the container that the instance in `directory` is."""
    with open(os.path.join(directory, "spec.json"), "rb") as file:
        setup = json.load(file)
    spec = setup["spec"]
    labels = {
        "rayfold.home": home,
        "rayfold.instance": spec["instance_id"],
        "rayfold.service": spec["service_id"],
    }
    attendant = Attendant(address, name)
    for number in _FORWARDED:
        signal.signal(number, attendant.forward)
    try:
        attendant.create(body_of(setup, labels))
        output = attendant.attach(before=True)
        attendant.start()
        state = attendant.follow(output)
    except (NotStarted, OSError) as error:
        say(str(error))
        attendant.remove()
        return EXIT_NOT_STARTED, 0
    if state.get("OOMKilled"):
        os.close(os.open(os.path.join(directory, OOM_FILE), os.O_CREAT | os.O_WRONLY, 0o600))
    attendant.remove()
    code = state.get("ExitCode")
    code = code if isinstance(code, int) else EXIT_NOT_STARTED
    return (code, 0) if code <= 128 or code - 128 > signal.SIGSYS else (code, code - 128)


def main() -> int:
    """`attend.py DIRECTORY ADDRESS NAME HOME`."""
    code, number = run(*sys.argv[1:5])
    if number:
        # The engine tells a signal as 128 + n; ended by it, we are seen to have ended as the container did.
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return code


if __name__ == "__main__":
    sys.exit(main())
