"""What was decided about log lines, and each stream's policy made of it: for all, a team, or a component.

A team's own decisions (events) come before the operator's file, and of both the nearest one that says something wins;
redaction rules of all of them apply. Knows names and values; nothing of files.
"""

import logging
from collections.abc import Mapping

import msgspec

from actors.logs.drivers.named import driver_for
from actors.logs.drivers.port import BadDriver, Origin
from actors.logs.errors import BadQuery
from actors.logs.policy import DAY_SECONDS, StreamPolicy
from actors.logs.redact import Redactor, check_rules
from events.model.log_rules import NO_RULES, LogRules

_log = logging.getLogger(__name__)

_MIB, _GIB = 1 << 20, 1 << 30

Names = Mapping[str, tuple[str, str, str]]
"""Team, app and component by service id."""

Rules = Mapping[tuple[str, str], LogRules]
"""By team and scope: "" the team, else app/component."""


class ComponentLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one component. None: as its team has it. `keep_days` 0: for ever. `redact`: patterns of what is not stored."""

    keep_days: float | None = None
    component_mib: int | None = None
    redact: tuple[str, ...] = ()


class TeamLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a team's components, and of all together (`team_gib`). `drains`: URLs of other places for all its lines.
    `components`: by `app/component`."""

    keep_days: float | None = None
    component_mib: int | None = None
    team_gib: float | None = None
    kib_per_second: int | None = None
    drains: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    components: dict[str, ComponentLines] = {}


class LinesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of everybody; `kib_per_second` of each team, 0: no limit. Sealed segments older than
    `archive_hours`, or beyond `local_mib` a stream, go to the archive."""

    keep_days: float = 30.0
    component_mib: int = 1024
    team_gib: float = 20.0
    kib_per_second: int = 20_480
    archive_hours: float = 6.0
    local_mib: int = 128
    drains: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    teams: dict[str, TeamLines] = {}

    def check(self) -> None:
        """Raises BadQuery saying which redaction rule or drain cannot be used."""
        try:
            for url in (*self.drains, *(url for team in self.teams.values() for url in team.drains)):
                driver_for(url, Origin())
        except BadDriver as error:
            raise BadQuery(str(error)) from None
        for team in (None, *self.teams.values()):
            for component in (None, *(team.components.values() if team else ())):
                check_rules(self._rules(team, component))

    def drains_of(self, team: str) -> tuple[str, ...]:
        """Other places for all lines of a team, beside those that its components name."""
        return (*self.drains, *(self.teams.get(team) or TeamLines()).drains)

    def policy(self, team: str, app: str, component: str, said: Rules | None = None) -> StreamPolicy:
        """The policy of a component's streams; `said`: what was decided by events."""
        of_team = self.teams.get(team) or TeamLines()
        own = of_team.components.get(f"{app}/{component}") or ComponentLines()
        said_own, said_team = _said(said, team, f"{app}/{component}"), _said(said, team, "")
        days = _first(said_own.keep_days, own.keep_days, said_team.keep_days, of_team.keep_days, self.keep_days)
        mib = _first(
            said_own.component_mib, own.component_mib, said_team.component_mib, of_team.component_mib,
            self.component_mib,
        )  # fmt: skip
        rules = [*self._rules(of_team, own), *_usable([*(said_team.redact or ()), *(said_own.redact or ())])]
        per_second = _first(said_team.kib_per_second, of_team.kib_per_second, self.kib_per_second)
        return StreamPolicy(
            team=team,
            app=app,
            component=component,
            keep_seconds=days * DAY_SECONDS,
            bytes=int(mib * _MIB),
            team_bytes=int(_first(said_team.team_gib, of_team.team_gib, self.team_gib) * _GIB),
            bytes_per_second=per_second * 1024.0 if team else 0.0,
            redactor=Redactor(rules=rules) if rules else None,
        )

    def _rules(self, team: TeamLines | None, component: ComponentLines | None) -> list[str]:
        return [*self.redact, *(team.redact if team else ()), *(component.redact if component else ())]


class NamedPolicies:
    """Policies by the names that streams stand for; told anew as components come and rules are changed."""

    def __init__(self, settings: LinesSettings) -> None:
        self.names: Names = {}
        self._rules: Rules = {}
        self._settings = settings
        self._made: dict[tuple[str, str, str], StreamPolicy] = {}

    def learn(self, names: Names, rules: Rules) -> None:
        """What holds from now on."""
        self.names = names
        if rules != self._rules:
            self._rules = rules
            self._made.clear()

    def of(self, stream: str) -> StreamPolicy:
        """As the port says. A build's stream, and an operation's, follow their component."""
        named = self.names.get(_service_of(stream), ("", "", ""))
        found = self._made.get(named)
        if found is None:
            found = self._made[named] = self._settings.policy(*named, self._rules)
        return found

    def knows(self, stream: str) -> bool:
        """As the port says. What is no component's is nobody's, and that is known."""
        service = _service_of(stream)
        return "/" in service or service in self.names


def _said(said: Rules | None, team: str, scope: str) -> LogRules:
    return (said or {}).get((team, scope), NO_RULES)


def _usable(rules: list[str]) -> list[str]:
    """Rules were looked at before they became events; one that cannot be used all the same must not stop all lines."""
    usable = []
    for rule in rules:
        try:
            check_rules([rule])
            usable.append(rule)
        except BadQuery as error:
            _log.error("a redaction rule is left out: %s", error)
    return usable


def _service_of(stream: str) -> str:
    kind, slash, rest = stream.partition("/")
    return rest.partition("-")[0] if slash and kind in ("build", "operation") else stream


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
