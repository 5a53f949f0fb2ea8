"""What a component is asked to be, apart from how far it has come, and how two states of it differ in that. Pure.

Knows the parts of a component; must not know who asked, nor how a difference is shown.
"""

from collections.abc import Mapping

import msgspec

from events.model.build import PORT
from events.model.component_parts import ComponentState, Release, RouteSpec
from events.replay.diffing import Change, Plain, diff, to_plain


def wanted_changes(before: msgspec.Struct, after: msgspec.Struct) -> list[Change]:
    """What `after` wants otherwise than `before`: limits, scale, variables, artifact and placement by their names
    (`memory_bytes`, `config.KEY`, `artifact.digest`), `port`, which an image is reached at, `routes` each on its own,
    and `ports`, where instances listen.

    Of a release that is being rolled out it is that release's. Nothing for what is no component.
    """
    if not (isinstance(before, ComponentState) and isinstance(after, ComponentState)):
        return []
    gone, come = _routes(before) - _routes(after), _routes(after) - _routes(before)
    return [
        *diff(_wanted(before), _wanted(after)),
        *(Change(path="routes", kind="removed", before=_address(route)) for route in sorted(gone)),
        *(Change(path="routes", kind="added", after=_address(route)) for route in sorted(come)),
    ]


def _wanted(state: ComponentState) -> Mapping[str, Plain]:
    number = _release(state)
    release = state.releases.get(number)
    spec = to_plain(release.spec if release and _coming(state) else state.spec)
    assert isinstance(spec, Mapping)  # noqa: S101 -- a struct as JSON
    port = release.artifact.settings.get(PORT, "") if release else ""
    return {
        "status": state.status.value,
        "release": number,
        **{name: value for name, value in spec.items() if name != "routes"},
        "command": release.command if release else "",
        "port": int(port) if port.isdecimal() else None,
        "artifact": _artifact(release),
        "placement": to_plain(state.placement),
        "releases_kept": state.releases_kept,
        "ports": {instance.id: instance.port for instance in state.instances.values() if instance.port},
    }


def _artifact(release: Release | None) -> Mapping[str, Plain]:
    """Without its port, which has its own name."""
    if release is None:
        return {}
    settings = {name: text for name, text in release.artifact.settings.items() if name != PORT}
    plain = to_plain(msgspec.structs.replace(release.artifact, settings=settings))
    return plain if isinstance(plain, Mapping) else {}


def _coming(state: ComponentState) -> int:
    """The release that the operation under way is for; 0: none."""
    return state.operation.release if state.operation else 0


def _release(state: ComponentState) -> int:
    return _coming(state) or state.current


def _routes(state: ComponentState) -> set[RouteSpec]:
    release = state.releases.get(_coming(state))
    return set((release.spec if release else state.spec).routes)


def _address(route: RouteSpec) -> str:
    return f"{route.host}{route.path}"
