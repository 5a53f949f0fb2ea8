"""Prepares a node's directories for instances and sets one instance's directory up, up to the start of its shim.

Starts nothing. Every step may be repeated: a crash between any two is repaired by doing all of them again.

    {node_root}/                 0711, and so are the directories above it where the platform runs as root
        uids.json  uids.lock     which user number belongs to which application
        ports/{port}             a reserved port; the content is the instance id
            instances/{instance_id}/            see shim/files.py
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from actors.runtime.command import environment, shell_line
from actors.runtime.containers import Containers
from actors.runtime.errors import InvalidSpec, NodeNotUsable
from actors.runtime.port import MIB, InstanceSpec
from actors.runtime.ports import PortBook
from actors.runtime.record import InstanceDirectory, Launch, Setup, directory_mode_for, socket_name
from actors.runtime.shim import files, proc
from actors.runtime.users import Owner, UserBook
from events.failpoints import failpoint
from events.secrets.forms import printed_forms

_INSTANCE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}", re.ASCII)
_NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){0,39}", re.ASCII)
_VARIABLE = re.compile(r"[^=\0]+")
_SOCKET_PATH_BYTES_MAX = 107
_GONE_PREFIX = ".gone-"
_BACKSTOP_TASKS = 4096
_ATTENDANT_BYTES = 256 * MIB
_ATTENDANT_FILES = 64


class NodeLayout:
    """The directories of one node. All calls block."""

    def __init__(
        self, *, node_root: Path, run_dir: Path, host: str, ports: range, containers: Containers | None = None
    ) -> None:
        self._containers = containers
        self.root = node_root.absolute()
        self._run_dir = run_dir.absolute()
        self._host = host
        self._instances = self.root / "instances"
        self._users = UserBook(self.root / "uids.json")
        self.ports = PortBook(self.root / "ports", host=host, ports=ports)

    def prepare(self) -> None:
        """Make the directories and clear away what a crash left half done. Raises NodeNotUsable."""
        longest = os.fsencode(self._run_dir / socket_name(""))
        if len(longest) > _SOCKET_PATH_BYTES_MAX:
            raise NodeNotUsable(
                f"expected socket paths of at most {_SOCKET_PATH_BYTES_MAX} bytes, found {len(longest)} under "
                f"{self._run_dir}; choose a shorter run directory"
            )
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir.chmod(0o700)
        self.root.mkdir(parents=True, exist_ok=True)
        for path in (self.root, self._instances):
            path.mkdir(exist_ok=True)
            path.chmod(0o711)
        (self.root / "ports").mkdir(mode=0o700, exist_ok=True)
        self._require_way_in()
        self._sweep()

    def _require_way_in(self) -> None:
        if os.geteuid() != 0:
            return
        for path in self.root.parents:
            if not path.stat().st_mode & 0o001:
                raise NodeNotUsable(
                    f"expected every directory above {self.root} to let other users pass (o+x), found {path} closed; "
                    "choose another node root, such as a directory under /var/lib"
                )

    def _sweep(self) -> None:
        for path in list(self._instances.iterdir()):
            # Without spec.json nothing was ever started there, and `start` begins anew. One that cannot be read is
            # left alone: something may run there.
            if path.name.startswith(_GONE_PREFIX) or not (path / files.SPEC).exists():
                delete_tree(path)
        for port, instance_id in self.ports.reservations().items():
            instance = self.directory(instance_id)
            setup = instance.setup()
            if not instance.path.exists() or (setup is not None and setup.port != port):
                self.ports.release(port)

    def directory(self, instance_id: str) -> InstanceDirectory:
        """The instance's directory, there or not. Raises InvalidSpec for an id that cannot be one."""
        if not _INSTANCE_ID.fullmatch(instance_id):
            raise InvalidSpec(f"expected an instance id of a-z, 0-9, '.', '_', '-', found {instance_id!r}")
        return InstanceDirectory(self._instances / instance_id)

    def setups(self) -> list[Setup]:
        """Every instance that was set up and not removed."""
        names = (path.name for path in self._instances.iterdir() if not path.name.startswith("."))
        found = (self.directory(name).setup() for name in sorted(names))
        return [setup for setup in found if setup is not None]

    def owner_of(self, team: str, app: str) -> Owner:
        """The application's user. Raises InvalidSpec, NodeNotUsable."""
        for name in (team, app):
            if not _NAME.fullmatch(name):
                raise InvalidSpec(f"expected a name such as my-app (a-z, 0-9, single '-'), found {name!r}")
        return self._users.owner_of(team, app)

    def set_up(self, spec: InstanceSpec, siblings: Callable[[int], int]) -> Setup:
        """The instance's directory and spec.json; the first spec stands. `siblings` counts a user's instances."""
        instance = self.directory(spec.instance_id)
        setup = instance.setup()
        if setup is not None:
            return setup
        check(spec)
        if spec.image is not None and self._containers is None:
            raise InvalidSpec(
                f"expected a node with a container engine for the image {spec.image.reference}, found none here; set "
                "containers.engine in the platform's config.toml"
            )
        owner = self.owner_of(spec.team, spec.app)
        self._make_directories(instance.path, owner, Path(spec.artifact_path))
        failpoint("runtime.directories")
        port = self._reserved(spec)
        failpoint("runtime.port")
        setup = Setup(
            spec=spec,
            host=self._host,
            port=port,
            user=owner.name,
            socket=str(self._run_dir / socket_name(spec.instance_id)),
            created_at=time.time_ns() // 1000,
            launch=self._launch(spec, instance.path, owner, port, siblings(owner.uid)),
        )
        instance.write_setup(setup)
        failpoint("runtime.spec")
        return setup

    def _reserved(self, spec: InstanceSpec) -> int | None:
        if not spec.wants_port:
            return None
        held = (port for port, holder in self.ports.reservations().items() if holder == spec.instance_id)
        return next(held, None) or self.ports.reserve(spec.instance_id)

    def _make_directories(self, path: Path, owner: Owner, artifact: Path) -> None:
        path.mkdir(exist_ok=True)
        _give(path, 0, owner.gid, directory_mode_for(owner.uid))
        (path / files.LOG).mkdir(mode=0o700, exist_ok=True)
        for name in (files.HOME, files.TMP):
            (path / name).mkdir(mode=0o700, exist_ok=True)
            _give(path / name, owner.uid, owner.gid, 0o700)
        (path / files.APP).unlink(missing_ok=True)
        (path / files.APP).symlink_to(artifact)

    def _launch(self, spec: InstanceSpec, path: Path, owner: Owner, port: int | None, siblings: int) -> Launch:
        if spec.image is not None and self._containers is not None:
            return self._attending(spec, path, self._containers)
        own_user = owner.uid != os.geteuid()
        processes = spec.limits.processes
        return Launch(
            shell_line=shell_line(spec.command),
            environment=environment(
                spec.env,
                instance_id=spec.instance_id,
                home=str(path / files.HOME),
                temporary=str(path / files.TMP),
                port=port,
            ),
            uid=owner.uid,
            gid=owner.gid,
            memory_bytes=spec.limits.memory_bytes,
            open_files=spec.limits.open_files,
            # The kernel counts per user. Where the user is the platform's own, its threads count too: then the
            # shim counts, and the kernel's limit only keeps a fork bomb from outrunning it.
            processes=processes * (siblings + 1)
            if own_user
            else proc.tasks_of(owner.uid) + processes + _BACKSTOP_TASKS,
            watched_processes=0 if own_user else processes,
            hidden=_hidden(spec),
        )

    def _attending(self, spec: InstanceSpec, path: Path, containers: Containers) -> Launch:
        """What attends to the container runs as the platform; the limits of the spec are the container's own."""
        return Launch(
            shell_line=containers.shell_line(path, spec.instance_id),
            environment=environment(
                {},
                instance_id=spec.instance_id,
                home=str(path / files.HOME),
                temporary=str(path / files.TMP),
                port=None,
            ),
            uid=os.geteuid(),
            gid=os.getegid(),
            memory_bytes=_ATTENDANT_BYTES,
            open_files=_ATTENDANT_FILES,
            processes=proc.tasks_of(os.geteuid()) + _BACKSTOP_TASKS,
            watched_processes=0,
            hidden=_hidden(spec),
        )

    def delete(self, setup: Setup) -> None:
        """Take an ended instance's directory and port away."""
        path = self.directory(setup.spec.instance_id).path
        gone = path.with_name(f"{_GONE_PREFIX}{path.name}.{time.time_ns()}")
        path.rename(gone)  # in one step, lest half a directory looks like another state
        failpoint("runtime.removed")
        if setup.port is not None:
            self.ports.release(setup.port)
        delete_tree(gone)


def _hidden(spec: InstanceSpec) -> tuple[str, ...]:
    return printed_forms(spec.env[name] for name in spec.secrets if name in spec.env)


def check(spec: InstanceSpec) -> None:
    """Raise InvalidSpec unless the spec can be run."""
    if not spec.command.strip() or "\0" in spec.command:
        raise InvalidSpec(f"expected a command line without NUL, found {spec.command!r}")
    if not Path(spec.artifact_path).is_absolute() or not Path(spec.artifact_path).is_dir():
        raise InvalidSpec(f"expected artifact_path to be an existing absolute directory, found {spec.artifact_path!r}")
    for name, value in spec.env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise InvalidSpec(f"expected environment names without '=' and no NUL anywhere, found {name!r}")
    limits = spec.limits
    if min(limits.memory_bytes, limits.open_files, limits.processes) < 1 or spec.grace_seconds < 0:
        raise InvalidSpec(f"expected limits of at least 1 and a grace period of at least 0, found {limits}")


def _give(path: Path, uid: int, gid: int, mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
    path.chmod(mode)


def delete_tree(path: Path) -> None:
    """Delete a tree, its unwritable directories (an application may have made some) included."""

    def _open_up(_function: object, failed: str, _error: object) -> None:
        if not os.path.lexists(failed):
            return
        for each in (Path(failed).parent, Path(failed)):
            if not each.is_symlink():
                each.chmod(0o700)
        if Path(failed).is_dir() and not Path(failed).is_symlink():
            shutil.rmtree(failed)
        else:
            Path(failed).unlink()

    shutil.rmtree(path, onerror=_open_up)
