"""etcd's requests and answers as small frozen structs, and their conversion to and from its protobuf messages.

Keys are text, values bytes. Knows nothing of connections or of the log.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from aetcd.rpc import kv_pb2, rpc_pb2


class KeyValue(msgspec.Struct, frozen=True):
    """A key as stored. `mod_revision` names this very version of it; `lease` is 0 for none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Listing(msgspec.Struct, frozen=True):
    """Keys in ascending order, as they were at `revision`: watch from `revision + 1` to miss nothing."""

    items: tuple[KeyValue, ...]
    revision: int

    def __iter__(self) -> Iterator[KeyValue]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class ModRevisionIs(msgspec.Struct, frozen=True):
    """True while `key` was not written since `revision`; revision 0: while it does not exist."""

    key: str
    revision: int


class VersionIs(msgspec.Struct, frozen=True):
    """True while `key` was written `version` times since it was made; 0: while it does not exist."""

    key: str
    version: int


class CreatedAfter(msgspec.Struct, frozen=True):
    """True while there are keys in [key, end) and each was made after `revision`."""

    key: str
    end: str
    revision: int


class NotCreatedAt(msgspec.Struct, frozen=True):
    """True while no key in [key, end) is one that was made at `revision`."""

    key: str
    end: str
    revision: int


class Put(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    lease: int = 0


class Get(msgspec.Struct, frozen=True):
    key: str


class Delete(msgspec.Struct, frozen=True):
    key: str


Condition = ModRevisionIs | VersionIs | CreatedAfter | NotCreatedAt
Operation = Put | Get | Delete


class TxnResult(msgspec.Struct, frozen=True):
    """`found` answers the `Get`s of the branch that ran, in order; None for an absent key."""

    succeeded: bool
    revision: int
    found: tuple[KeyValue | None, ...]


class WatchEvent(msgspec.Struct, frozen=True):
    """A put, or a delete (then `item` has only key and mod_revision)."""

    item: KeyValue
    deleted: bool


class WatchNotice(msgspec.Struct, frozen=True):
    """One answer of a watch; `events` is empty for its opening (`created`) and for a sign of life."""

    revision: int
    events: tuple[WatchEvent, ...]
    created: bool


class EtcdStatus(msgspec.Struct, frozen=True):
    """Sizes in bytes."""

    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    alarms: tuple[str, ...]


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that begins with `prefix`."""
    raw = bytearray(prefix.encode())
    while raw and raw[-1] == 0xFF:
        raw.pop()
    if not raw:
        raise ValueError("expected a prefix of at least one character, found an empty one: it would mean every key")
    raw[-1] += 1
    return bytes(raw)


def key_value(message: Any) -> KeyValue:
    """From mvccpb.KeyValue."""
    return KeyValue(
        message.key.decode(errors="surrogateescape"),
        message.value,
        message.create_revision,
        message.mod_revision,
        message.version,
        message.lease,
    )


def txn_request(when: Sequence[Condition], then: Sequence[Operation], otherwise: Sequence[Operation]) -> Any:
    """An etcdserverpb.TxnRequest."""
    return rpc_pb2.TxnRequest(
        compare=[_compare(condition) for condition in when],
        success=[_operation(operation) for operation in then],
        failure=[_operation(operation) for operation in otherwise],
    )


def txn_result(response: Any) -> TxnResult:
    """From etcdserverpb.TxnResponse."""
    found = tuple(
        key_value(answer.response_range.kvs[0]) if answer.response_range.kvs else None
        for answer in response.responses
        if answer.WhichOneof("response") == "response_range"
    )
    return TxnResult(response.succeeded, response.header.revision, found)


def watch_event(message: Any) -> WatchEvent:
    """From mvccpb.Event."""
    return WatchEvent(key_value(message.kv), message.type == kv_pb2.Event.DELETE)


def _compare(condition: Condition) -> Any:
    compare = rpc_pb2.Compare
    if isinstance(condition, ModRevisionIs):
        return compare(
            result=compare.EQUAL, target=compare.MOD, key=condition.key.encode(), mod_revision=condition.revision
        )
    if isinstance(condition, VersionIs):
        return compare(
            result=compare.EQUAL, target=compare.VERSION, key=condition.key.encode(), version=condition.version
        )
    return compare(
        result=compare.GREATER if isinstance(condition, CreatedAfter) else compare.NOT_EQUAL,
        target=compare.CREATE,
        key=condition.key.encode(),
        range_end=condition.end.encode(),
        create_revision=condition.revision,
    )


def _operation(operation: Operation) -> Any:
    key = operation.key.encode()
    if isinstance(operation, Put):
        put = rpc_pb2.PutRequest(key=key, value=operation.value, lease=operation.lease)
        return rpc_pb2.RequestOp(request_put=put)
    if isinstance(operation, Get):
        return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
