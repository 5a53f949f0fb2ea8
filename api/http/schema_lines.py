"""Shapes of the rules for log lines. Knows JSON only; what a rule means is told by `events.model.log_rules`."""

from pydantic import Field

from api.http.schema import Body, Reason, View
from events.model.log_rules import MAX_KEEP_DAYS, MAX_MIB, MAX_RULES

Days = Field(default=None, ge=0, le=MAX_KEEP_DAYS)
Mib = Field(default=None, ge=1, le=MAX_MIB)


class ChangeLogRules(Body):
    """What is given is set; null gives it back to the wider rules; what is left out stays. `keep_days` 0: for ever.

    `redact`: RE2 patterns of what is not stored, beside those of the wider rules.
    """

    keep_days: float | None = Days
    component_mib: int | None = Mib
    redact: list[str] | None = Field(default=None, max_length=MAX_RULES)
    reason: Reason = ""


class ChangeTeamLogRules(ChangeLogRules):
    """As of a component, and two that only the administrator sets: `team_gib`, what all lines of the team may take,
    and `kib_per_second`, how fast they are taken (0: no limit)."""

    team_gib: float | None = Field(default=None, ge=1 / 1024, le=MAX_MIB)
    kib_per_second: int | None = Field(default=None, ge=0, le=MAX_MIB)


class LogRulesView(View):
    """What was decided here, null where it was left to the wider rules. `app` and `component` are "" for the team."""

    team: str
    app: str = ""
    component: str = ""
    keep_days: float | None = None
    component_mib: int | None = None
    team_gib: float | None = None
    kib_per_second: int | None = None
    redact: list[str] | None = None
