"""Team: who owns applications, and the tokens that act for it. Knows nothing of how a token is checked on the wire."""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem


class TeamStatus(StrEnum):
    """absent → active → deleted; a deleted team may be created again."""

    ABSENT = "absent"
    ACTIVE = "active"
    DELETED = "deleted"


class TeamState(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` maps a token's name to the sha256 of its secret, in hex: the secret itself is never stored."""

    status: TeamStatus = TeamStatus.ABSENT
    name: str = ""
    tokens: dict[str, str] = {}


class TeamCreated(Event, frozen=True):
    name: str


class TeamTokenIssued(Event, frozen=True):
    name: str
    sha256: str


class TeamTokenRevoked(Event, frozen=True):
    name: str


class TeamDeleted(Event, frozen=True):
    pass


class CreateTeam(Command, frozen=True):
    name: str


class IssueTeamToken(Command, frozen=True):
    name: str
    sha256: str


class RevokeTeamToken(Command, frozen=True):
    name: str


TeamEvent = TeamCreated | TeamTokenIssued | TeamTokenRevoked | TeamDeleted
TeamCommand = CreateTeam | IssueTeamToken | RevokeTeamToken


def apply(state: TeamState, event: TeamEvent, at: int) -> TeamState:
    match event:
        case TeamCreated(name=name):
            return TeamState(status=TeamStatus.ACTIVE, name=name)
        case TeamTokenIssued(name=name, sha256=digest):
            return msgspec.structs.replace(state, tokens={**state.tokens, name: digest})
        case TeamTokenRevoked(name=name):
            return msgspec.structs.replace(state, tokens={k: v for k, v in state.tokens.items() if k != name})
        case TeamDeleted():
            return msgspec.structs.replace(state, status=TeamStatus.DELETED, tokens={})


def decide(state: TeamState, command: TeamCommand, meta: Meta) -> Decision:
    match command:
        case CreateTeam(name=name):
            if state.status is TeamStatus.ACTIVE:
                return Refusal(code="conflict", message=f"team {name} exists already")
            return name_problem("a team name", name) or [TeamCreated(name=name)]
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
    raise TypeError(f"not a team command: {type(command).__name__}")
