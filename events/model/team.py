"""Team: who owns applications, and the tokens that act for it. Knows nothing of how a token is checked on the wire."""

from enum import StrEnum
from typing import TypeVar

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem
from events.model.log_rules import MAX_SCOPES, NO_RULES, LogRules, changed, problem
from events.model.team_credentials import (
    MAX_CREDENTIALS,
    MAX_HOSTS,
    Credential,
    credential_problem,
    host_keys_problem,
    where_of,
)

_Value = TypeVar("_Value")


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
    credentials: dict[str, Credential] = {}
    """By name: what private sources are read with."""
    host_keys: dict[str, tuple[str, ...]] = {}
    """The public keys by which git hosts are known to this team, by host as ssh names it."""


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


class TeamCredentialAdded(Event, frozen=True):
    """It takes the place of an earlier one of this name. `credential` holds its secret sealed."""

    name: str
    credential: Credential


class TeamCredentialRemoved(Event, frozen=True):
    name: str


class TeamHostKeysPinned(Event, frozen=True):
    """`keys`: all that `host` is known by from now on, `TYPE BASE64` each."""

    host: str
    keys: tuple[str, ...]


class TeamHostKeysUnpinned(Event, frozen=True):
    host: str


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


class AddCredential(Command, frozen=True):
    name: str
    credential: Credential


class RemoveCredential(Command, frozen=True):
    name: str


class PinHostKeys(Command, frozen=True):
    host: str
    keys: tuple[str, ...]


class UnpinHostKeys(Command, frozen=True):
    host: str


TeamEvent = (
    TeamCreated
    | TeamTokenIssued
    | TeamTokenRevoked
    | TeamDeleted
    | TeamKeyDestructionRequested
    | TeamKeyDestroyed
    | TeamLogRulesChanged
    | TeamCredentialAdded
    | TeamCredentialRemoved
    | TeamHostKeysPinned
    | TeamHostKeysUnpinned
)
CredentialCommand = AddCredential | RemoveCredential | PinHostKeys | UnpinHostKeys
TeamCommand = (
    CreateTeam
    | IssueTeamToken
    | RevokeTeamToken
    | DestroyTeamKey
    | ReportKeyDestroyed
    | ChangeLogRules
    | CredentialCommand
)


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
            return msgspec.structs.replace(state, tokens=_without(state.tokens, name))
        case TeamDeleted():
            return msgspec.structs.replace(state, status=TeamStatus.DELETED, tokens={}, credentials={}, host_keys={})
        case TeamKeyDestructionRequested(key_id=key, by=by, why=why):
            return msgspec.structs.replace(state, doomed_keys={**state.doomed_keys, key: DoomedKey(by=by, why=why)})
        case TeamKeyDestroyed(key_id=key):
            left = _without(state.doomed_keys, key)
            return msgspec.structs.replace(state, doomed_keys=left, destroyed_keys=(*state.destroyed_keys, key))
        case TeamLogRulesChanged(scope=scope, rules=rules):
            others = _without(state.log_rules, scope)
            return msgspec.structs.replace(state, log_rules=others if rules == NO_RULES else {**others, scope: rules})
        case TeamCredentialAdded(name=name, credential=credential):
            return msgspec.structs.replace(state, credentials={**state.credentials, name: credential})
        case TeamCredentialRemoved(name=name):
            return msgspec.structs.replace(state, credentials=_without(state.credentials, name))
        case TeamHostKeysPinned(host=host, keys=keys):
            return msgspec.structs.replace(state, host_keys={**state.host_keys, host: keys})
        case TeamHostKeysUnpinned(host=host):
            return msgspec.structs.replace(state, host_keys=_without(state.host_keys, host))


def _without(of: dict[str, _Value], name: str) -> dict[str, _Value]:
    return {key: value for key, value in of.items() if key != name}


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
        case AddCredential() | RemoveCredential() | PinHostKeys() | UnpinHostKeys():
            return _decide_credentials(state, command)
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


def _decide_credentials(state: TeamState, command: CredentialCommand) -> Decision:
    match command:
        case AddCredential():
            return _add_credential(state, command)
        case RemoveCredential(name=name):
            if name not in state.credentials:
                return Refusal(code="not_found", message=f"no credential {name[:60]!r}", hint="rayfold credentials")
            return [TeamCredentialRemoved(name=name)]
        case PinHostKeys(host=host, keys=keys):
            if found := host_keys_problem(host, keys):
                return found
            if state.host_keys.get(host) == keys:
                return []
            if host not in state.host_keys and len(state.host_keys) >= MAX_HOSTS:
                return Refusal(code="invalid", message=f"expected keys of at most {MAX_HOSTS} hosts", hint="unpin some")
            return [TeamHostKeysPinned(host=host, keys=keys)]
        case UnpinHostKeys(host=host):
            if host not in state.host_keys:
                return Refusal(code="not_found", message=f"no keys of {host[:80]!r}", hint="rayfold credentials")
            return [TeamHostKeysUnpinned(host=host)]


def _add_credential(state: TeamState, command: AddCredential) -> Decision:
    name, wanted = command.name, command.credential
    if found := credential_problem(name, wanted):
        return found
    before = state.credentials.get(name)
    # A pair that was made stays: asked for again, the key that a git host knows by now must not be another one.
    kept = before is not None and before.made_here and wanted.made_here and before.prefix == wanted.prefix
    if kept or before == wanted:
        return []
    place = where_of(wanted.prefix)
    for other, held in state.credentials.items():
        if other != name and where_of(held.prefix) == place:
            message = f"expected a prefix that has no credential yet, found that of {other}"
            return Refusal(code="conflict", message=message, hint=f"rayfold credentials remove {other}")
    if before is None and len(state.credentials) >= MAX_CREDENTIALS:
        return Refusal(code="invalid", message=f"expected at most {MAX_CREDENTIALS} credentials", hint="remove some")
    return [TeamCredentialAdded(name=name, credential=wanted)]
