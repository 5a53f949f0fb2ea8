"""Team: who owns applications, and the tokens that act for it. Knows nothing of how a token is checked on the wire."""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem
from events.model.log_rules import MAX_SCOPES, NO_RULES, LogRules, changed, problem


class TeamStatus(StrEnum):
    """absent → active → deleted; a deleted team may be created again."""

    ABSENT = "absent"
    ACTIVE = "active"
    DELETED = "deleted"


class DoomedKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who wants a data key gone, and why."""

    by: str
    why: str = ""


class TeamState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`tokens` maps a token's name to the sha256 of its secret, in hex: the secret itself is never stored.

    `doomed_keys` are data keys that are to be destroyed, by id; the keys themselves are no part of any state or event.
    """

    status: TeamStatus = TeamStatus.ABSENT
    name: str = ""
    tokens: dict[str, str] = {}
    doomed_keys: dict[str, DoomedKey] = {}
    destroyed_keys: tuple[str, ...] = ()
    log_rules: dict[str, LogRules] = {}
    """Of the team's log lines (""), and of single components' (`app/component`), which may come and go."""


class TeamCreated(Event, frozen=True):
    name: str


class TeamTokenIssued(Event, frozen=True):
    name: str
    sha256: str


class TeamTokenRevoked(Event, frozen=True):
    name: str


class TeamDeleted(Event, frozen=True):
    pass


class TeamKeyDestructionRequested(Event, frozen=True):
    """The intent to destroy a data key; durable before anything is."""

    key_id: str
    by: str
    why: str = ""


class TeamKeyDestroyed(Event, frozen=True):
    """Nobody can read any more what this key sealed, here or in any release."""

    key_id: str
    by: str
    why: str = ""


class TeamLogRulesChanged(Event, frozen=True):
    """`rules`: all that hold from now on for `scope`: "" the team, else `app/component`."""

    scope: str = ""
    rules: LogRules = NO_RULES


class CreateTeam(Command, frozen=True):
    name: str


class IssueTeamToken(Command, frozen=True):
    name: str
    sha256: str


class RevokeTeamToken(Command, frozen=True):
    name: str


class DestroyTeamKey(Command, frozen=True):
    key_id: str


class ReportKeyDestroyed(Command, frozen=True):
    key_id: str


class ChangeLogRules(Command, frozen=True):
    """Set what is given in `rules`, leave to the wider rules what is in `unset`, and the rest as it is."""

    scope: str = ""
    rules: LogRules = NO_RULES
    unset: tuple[str, ...] = ()


TeamEvent = (
    TeamCreated
    | TeamTokenIssued
    | TeamTokenRevoked
    | TeamDeleted
    | TeamKeyDestructionRequested
    | TeamKeyDestroyed
    | TeamLogRulesChanged
)
TeamCommand = CreateTeam | IssueTeamToken | RevokeTeamToken | DestroyTeamKey | ReportKeyDestroyed | ChangeLogRules


def apply(state: TeamState, event: TeamEvent, at: int) -> TeamState:
    match event:
        case TeamCreated(name=name):
            # A key that an earlier life of this name wanted gone must go all the same.
            return TeamState(
                status=TeamStatus.ACTIVE,
                name=name,
                doomed_keys=state.doomed_keys,
                destroyed_keys=state.destroyed_keys,
            )
        case TeamTokenIssued(name=name, sha256=digest):
            return msgspec.structs.replace(state, tokens={**state.tokens, name: digest})
        case TeamTokenRevoked(name=name):
            return msgspec.structs.replace(state, tokens={k: v for k, v in state.tokens.items() if k != name})
        case TeamDeleted():
            return msgspec.structs.replace(state, status=TeamStatus.DELETED, tokens={})
        case TeamKeyDestructionRequested(key_id=key, by=by, why=why):
            return msgspec.structs.replace(state, doomed_keys={**state.doomed_keys, key: DoomedKey(by=by, why=why)})
        case TeamKeyDestroyed(key_id=key):
            left = {k: v for k, v in state.doomed_keys.items() if k != key}
            return msgspec.structs.replace(state, doomed_keys=left, destroyed_keys=(*state.destroyed_keys, key))
        case TeamLogRulesChanged(scope=scope, rules=rules):
            others = {name: each for name, each in state.log_rules.items() if name != scope}
            return msgspec.structs.replace(state, log_rules=others if rules == NO_RULES else {**others, scope: rules})


def decide(state: TeamState, command: TeamCommand, meta: Meta) -> Decision:
    match command:
        case CreateTeam(name=name):
            if state.status is TeamStatus.ACTIVE:
                return Refusal(code="conflict", message=f"team {name} exists already")
            return name_problem("a team name", name) or [TeamCreated(name=name)]
        case ReportKeyDestroyed(key_id=key):
            doomed = state.doomed_keys.get(key)
            return [TeamKeyDestroyed(key_id=key, by=doomed.by, why=doomed.why)] if doomed else []
        case _ if state.status is not TeamStatus.ACTIVE:
            return Refusal(code="not_found", message="no such team", hint="rayfold teams create NAME")
        case IssueTeamToken(name=name, sha256=digest):
            if name in state.tokens:
                return Refusal(code="conflict", message=f"token {name} exists already", hint="revoke it first")
            return name_problem("a token name", name) or [TeamTokenIssued(name=name, sha256=digest)]
        case RevokeTeamToken(name=name):
            if name not in state.tokens:
                return Refusal(code="not_found", message=f"no token called {name[:60]!r}")
            return [TeamTokenRevoked(name=name)]
        case DestroyTeamKey(key_id=key):
            if key in state.doomed_keys or key in state.destroyed_keys:
                return []
            return [TeamKeyDestructionRequested(key_id=key, by=meta.actor, why=meta.reason)]
        case ChangeLogRules():
            return _change_log_rules(state, command)
    raise TypeError(f"not a team command: {type(command).__name__}")


def _change_log_rules(state: TeamState, command: ChangeLogRules) -> Decision:
    scope, before = command.scope, state.log_rules.get(command.scope, NO_RULES)
    if found := problem(scope, command.rules, command.unset):
        return found
    rules = changed(before, command.rules, command.unset)
    if rules == before:
        return []
    if scope not in state.log_rules and len(state.log_rules) >= MAX_SCOPES:
        return Refusal(code="invalid", message=f"expected rules for at most {MAX_SCOPES} components", hint="unset some")
    return [TeamLogRulesChanged(scope=scope, rules=rules)]
