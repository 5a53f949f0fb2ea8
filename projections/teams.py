"""Read model: teams, the tokens that act for them, found by the sha256 of their secret, and rules for their log lines.

Must not know a token's secret, nor how it travels.
"""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.log_rules import NO_RULES
from events.model.team import (
    TeamCreated,
    TeamDeleted,
    TeamLogRulesChanged,
    TeamStatus,
    TeamTokenIssued,
    TeamTokenRevoked,
)
from projections.model import Projection, ident_of, to_json
from projections.rows import Rows
from projections.schema import index, json_text, model_table, number, text

TEAMS = model_table("teams", text("name", key=True), text("status"), number("created_at"), text("created_by"))
TOKENS = model_table("tokens", text("team", key=True), text("name", key=True), text("sha256"), number("issued_at"))
index(TOKENS, "sha256")
LOG_RULES = model_table("log_rules", text("team", key=True), text("scope", key=True), json_text("rules", blank="{}"))
"""`scope`: "" the team, else app/component."""


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One team event."""
    team, record = ident_of(stored.record.stream), stored.record
    match event:
        case TeamCreated():
            status = TeamStatus.ACTIVE.value
            rows.new(TEAMS, stored, name=team, status=status, created_at=record.at, created_by=record.actor)
            for rules in rows.select(LOG_RULES, team=team):  # of an earlier life of this name
                rows.delete(LOG_RULES, team, rules["scope"])
            return
        case TeamTokenIssued(name=name, sha256=digest):
            rows.new(TOKENS, stored, team=team, name=name, sha256=digest, issued_at=record.at)
        case TeamTokenRevoked(name=name):
            rows.delete(TOKENS, team, name)
        case TeamLogRulesChanged(scope=scope, rules=rules) if rules == NO_RULES:
            rows.delete(LOG_RULES, team, scope)
        case TeamLogRulesChanged(scope=scope, rules=rules):
            rows.new(LOG_RULES, stored, team=team, scope=scope, rules=to_json(rules))
        case TeamDeleted():
            for token in rows.select(TOKENS, team=team):
                rows.delete(TOKENS, team, token["name"])
            rows.change(TEAMS, (team,), stored, status=TeamStatus.DELETED.value)
            return
    rows.change(TEAMS, (team,), stored)


PROJECTION = Projection(
    name="teams", version=1, kinds=frozenset({"team"}), tables=(TEAMS, TOKENS, LOG_RULES), fold=fold
)
