"""What an operator wrote down about log lines, and each stream's policy made of it: for all, a team, or a component.

The nearest one that says something wins; redaction rules of all three apply. Knows names and values; nothing of files.
"""

from collections.abc import Mapping

import msgspec

from actors.logs.policy import DAY_SECONDS, StreamPolicy
from actors.logs.redact import Redactor, check_rules

_MIB, _GIB = 1 << 20, 1 << 30

Names = Mapping[str, tuple[str, str, str]]
"""Team, app and component by service id."""


class ComponentLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one component. None: as its team has it. `keep_days` 0: for ever. `redact`: patterns of what is not stored."""

    keep_days: float | None = None
    component_mib: int | None = None
    redact: tuple[str, ...] = ()


class TeamLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a team's components, and of all together (`team_gib`). `components`: by `app/component`."""

    keep_days: float | None = None
    component_mib: int | None = None
    team_gib: float | None = None
    redact: tuple[str, ...] = ()
    components: dict[str, ComponentLines] = {}


class LinesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of everybody. Sealed segments older than `archive_hours`, or beyond `local_mib` a stream, go to the archive."""

    keep_days: float = 30.0
    component_mib: int = 1024
    team_gib: float = 20.0
    archive_hours: float = 6.0
    local_mib: int = 128
    redact: tuple[str, ...] = ()
    teams: dict[str, TeamLines] = {}

    def check(self) -> None:
        """Raises BadQuery saying which redaction rule cannot be used."""
        for team in (None, *self.teams.values()):
            for component in (None, *(team.components.values() if team else ())):
                check_rules(self._rules(team, component))

    def policy(self, team: str, app: str, component: str) -> StreamPolicy:
        """The policy of a component's streams."""
        of_team = self.teams.get(team) or TeamLines()
        own = of_team.components.get(f"{app}/{component}") or ComponentLines()
        days = _first(own.keep_days, of_team.keep_days, self.keep_days)
        rules = self._rules(of_team, own)
        return StreamPolicy(
            team=team,
            app=app,
            component=component,
            keep_seconds=days * DAY_SECONDS,
            bytes=int(_first(own.component_mib, of_team.component_mib, self.component_mib) * _MIB),
            team_bytes=int(_first(of_team.team_gib, self.team_gib) * _GIB),
            redactor=Redactor(rules=rules) if rules else None,
        )

    def _rules(self, team: TeamLines | None, component: ComponentLines | None) -> list[str]:
        return [*self.redact, *(team.redact if team else ()), *(component.redact if component else ())]


class NamedPolicies:
    """Policies by the names that streams stand for; `names` is set anew as components come."""

    def __init__(self, settings: LinesSettings) -> None:
        self.names: Names = {}
        self._settings = settings
        self._made: dict[tuple[str, str, str], StreamPolicy] = {}

    def of(self, stream: str) -> StreamPolicy:
        """As the port says. A build's stream follows its component."""
        kind, slash, rest = stream.partition("/")
        named = self.names.get(rest.partition("-")[0] if slash and kind == "build" else stream, ("", "", ""))
        found = self._made.get(named)
        if found is None:
            found = self._made[named] = self._settings.policy(*named)
        return found


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
