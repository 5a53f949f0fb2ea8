"""What was decided about log lines of a team or of one component: how long and how much is kept, how fast, what is not.

Values, and the bounds within which they make sense; knows nothing of who keeps lines or how.
"""

import re

import msgspec

from events.model.base import Refusal, name_problem

MAX_RULES = 20
MAX_RULE_CHARS = 500
MAX_SCOPES = 1_000
"""Components of one team that have rules of their own."""
MAX_KEEP_DAYS = 36_500.0
MAX_MIB = 1 << 30
TEAM_ONLY = ("team_gib", "kib_per_second")
"""What only a team as a whole has."""


class LogRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """None: as the next wider rules have it (component, team, platform). `keep_days` 0: for ever; `component_mib` and
    `team_gib` as stored; `kib_per_second` of a team at each log server, 0: no limit; `redact`: patterns of what is not
    stored, beside those of the wider rules."""

    keep_days: float | None = None
    component_mib: int | None = None
    team_gib: float | None = None
    kib_per_second: int | None = None
    redact: tuple[str, ...] | None = None


NO_RULES = LogRules()
FIELDS = LogRules.__struct_fields__


def changed(rules: LogRules, given: LogRules, unset: tuple[str, ...]) -> LogRules:
    """`rules` with what is `given`, and without what is `unset`."""
    values = {name: value for name in FIELDS if (value := getattr(given, name)) is not None}
    return msgspec.structs.replace(rules, **values, **dict.fromkeys(unset))


def problem(scope: str, rules: LogRules, unset: tuple[str, ...]) -> Refusal | None:
    """None where this may be set for `scope` ("" the team, else app/component). A pattern's syntax is not looked at."""
    app, slash, component = scope.partition("/")
    if scope and not slash:
        return _invalid(f"expected app/component, or nothing for the team, found {scope[:90]!r}")
    for what, name in (("an app", app), ("a component", component)) if scope else ():
        if found := name_problem(what, name):
            return found
    if unknown := [name for name in unset if name not in FIELDS]:
        return _invalid(f"expected some of {', '.join(FIELDS)} to be unset, found {unknown[0][:40]!r}")
    if scope and any(getattr(rules, name) is not None for name in TEAM_ONLY):
        return _invalid(f"{' and '.join(TEAM_ONLY)} are a team's, not a component's", "leave the component out")
    for name, most in (
        ("keep_days", MAX_KEEP_DAYS), ("component_mib", MAX_MIB), ("team_gib", MAX_MIB), ("kib_per_second", MAX_MIB)
    ):  # fmt: skip
        value = getattr(rules, name)
        # A size of nothing would drop every line as soon as its segment is full.
        least = 0 if name in ("keep_days", "kib_per_second") else 1 / 1024
        if value is not None and not least <= value <= most:
            return _invalid(f"expected {name} from {least:g} to {most:g}, found {value:g}")
    patterns = rules.redact or ()
    if len(patterns) > MAX_RULES:
        return _invalid(f"expected at most {MAX_RULES} redaction rules, found {len(patterns)}")
    if any(not 0 < len(each) <= MAX_RULE_CHARS or re.search(r"[\0\n]", each) for each in patterns):
        return _invalid(f"expected redaction rules of 1 to {MAX_RULE_CHARS} characters on one line")
    return None


def _invalid(message: str, hint: str = "") -> Refusal:
    return Refusal(code="invalid", message=message, hint=hint)
