"""Automatic hosts: the name that every component has by itself, and whose the names below `.localhost` are.

Knows names alone: that a team's app of that name exists, or has a component, makes no difference.
"""

from events.model.base import Refusal

DEFAULT_TEAM = "default"
WEB = "web"
_SUFFIX = ".localhost"  # resolves to this machine everywhere (RFC 6761)


def automatic_host(team: str, app: str, component: str) -> str:
    """The host name that a component has by itself."""
    home = _home_of(team, app)
    return home if component == WEB else f"{component}.{home}"


def reserved_problem(host: str, *, team: str, app: str) -> Refusal | None:
    """None when a component of `team`'s `app` may claim `host`, also with a path; else whose it is.

    No other application can have or get a host of an app's own: no claim on it has to be made, found or waited for.
    """
    home = _home_of(team, app)
    if not host.endswith(_SUFFIX) or host == home or host.endswith(f".{home}"):
        return None
    return Refusal(
        code="conflict",
        message=f"{host} is taken by another application, or kept for one: below {_SUFFIX} this one has {home} and "
        f"the names that end with .{home}",
        hint=f"choose {home}/PATH, a name that ends with .{home}, or a host that is not below {_SUFFIX}",
    )


def _home_of(team: str, app: str) -> str:
    # Names hold no `--`, so that no two teams' apps ever share a host; nor a dot, so that none lies below another's.
    owner = app if team == DEFAULT_TEAM else f"{app}--{team}"
    return owner + _SUFFIX
