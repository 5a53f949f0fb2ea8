"""The vocabulary every aggregate shares: events, commands, refusals, names and ids.

Knows nothing of storage or of any one aggregate; everything here is pure.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import ClassVar, NewType

import msgspec

ServiceId = NewType("ServiceId", str)

MAX_NAME = 40
PROGRESS_ROUNDS = 100
"""In which what follows from a state by itself comes to rest: more than any state machine here has steps. What goes on
after that is a loop without end, a bug, and stops loudly."""
_NAME = re.compile(r"^[a-z](?:[a-z0-9]|-(?=[a-z0-9]))*\Z")
_HOST_LABEL = re.compile(r"^(?!-)[a-z0-9-]{1,63}(?<!-)\Z")


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something that happened. The class name is the stored type; old schema versions are upcast on read.

    Events, and the states they make, hold values only and cannot refer to themselves: without `gc=False` the collector
    walks all of them again and again while a log is folded, which costs more than the fold.
    """

    schema_version: ClassVar[int] = 1


class Command(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """A wish. `decide` turns it into events or refuses it."""


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in with a command, so that `decide` needs no clock and no randomness. `at` is microseconds UTC."""

    command_id: str
    at: int
    actor: str = "platform"
    reason: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command did nothing. `code` is one of not_found, conflict, invalid, version_mismatch, forbidden."""

    code: str
    message: str
    hint: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A command on its way to the owner of `stream`. `command_id` is the idempotency key.

    `team`: whose share of what may wait it takes; empty for the platform's own.
    """

    stream: str
    command: msgspec.Raw
    command_id: str
    correlation_id: str = ""
    causation_id: str = ""
    actor: str = "platform"
    reason: str = ""
    traceparent: str = ""
    expected_version: int | None = None
    team: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a command came to: where its events stand, or why there are none.

    `operation` is the id to follow, when the command started one. `error` is set when nothing was decided at all
    (`not_owner`, `unavailable`, `overloaded`, `full`): the same command may be sent again; or `failed`: deciding it
    went wrong here, and would again; or `unreadable`: the stream's partition cannot be folded until a person mends it.
    """

    command_id: str
    stream: str = ""
    version: int = 0
    partition: int = -1
    offset: int = -1
    operation: str = ""
    refusal: Refusal | None = None
    error: str = ""
    error_message: str = ""


Decision = Sequence[Event] | Refusal


def service_id_of(team: str, app: str, component: str) -> ServiceId:
    """The id of a component: 16 hex digits of blake2b over its full name, so that a name has one history for ever."""
    return ServiceId(hashlib.blake2b(f"{team}/{app}/{component}".encode(), digest_size=8).hexdigest())


def partition_key(stream: str) -> str:
    """The key that places a stream: `service_id` for what belongs to a component, else the stream's own name."""
    kind, _, ident = stream.partition("/")
    if kind == "parked":
        return partition_key(ident)  # beside what it is about
    if kind == "component":
        return ident
    if kind == "build":
        return ident.partition("-")[0]
    return stream


def name_problem(what: str, name: str) -> Refusal | None:
    """None when `name` may name a team, app or component; else what is wrong with it."""
    if len(name) <= MAX_NAME and _NAME.match(name) and not name.endswith("-"):
        return None
    shown = repr(name[:60]) + ("…" if len(name) > 60 else "")
    if len(name) > MAX_NAME:
        return Refusal(
            code="invalid",
            message=f"expected {what} of at most {MAX_NAME} characters, found {len(name)}: {shown}",
            hint="choose a shorter name",
        )
    return Refusal(
        code="invalid",
        message=f"expected {what} of lower-case letters, digits and single hyphens starting with a letter, "
        f"found {shown}",
        hint="for example: shop, web, my-app2",
    )


def host_problem(host: str) -> Refusal | None:
    """None when `host` is a DNS name that a route may claim; else what is wrong with it."""
    labels = host.split(".")
    if len(host) <= 253 and all(_HOST_LABEL.match(label) for label in labels):
        return None
    return Refusal(
        code="invalid",
        message=f"expected a host name like shop.example.com in lower case, found {host[:80]!r}",
        hint="give the bare host: no scheme, no port, no path",
    )
