"""A model of one etcd's state machine: revisions, transactions, ranges, leases, compaction, quota. Speaks its protobuf.

Every method is one atomic step at a given time. Knows nothing of networks; test_fidelity.py holds it against etcd.
"""

from bisect import bisect_left, bisect_right, insort
from typing import Any, NamedTuple

import grpc
from aetcd.rpc import kv_pb2, rpc_pb2

MAX_OPERATIONS = 128
MAX_REQUEST_BYTES = 1536 << 10
LEAST_TTL_S = 2
"""etcd raises a shorter lease to one and a half election timeouts, 1.5 s by default, rounded up."""
KEY_OVERHEAD = 64

_RESULTS = {
    rpc_pb2.Compare.EQUAL: lambda a, b: a == b,
    rpc_pb2.Compare.GREATER: lambda a, b: a > b,
    rpc_pb2.Compare.LESS: lambda a, b: a < b,
    rpc_pb2.Compare.NOT_EQUAL: lambda a, b: a != b,
}


class EtcdError(Exception):
    """What etcd answers instead of a result."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class Stored(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    def message(self, *, keys_only: bool = False) -> Any:
        return kv_pb2.KeyValue(
            key=self.key,
            value=b"" if keys_only else self.value,
            create_revision=self.create_revision,
            mod_revision=self.mod_revision,
            version=self.version,
            lease=self.lease,
        )


class Change(NamedTuple):
    """A put, or a delete: then `item` has only key and mod_revision."""

    item: Stored
    deleted: bool

    def message(self) -> Any:
        return kv_pb2.Event(type=kv_pb2.Event.DELETE if self.deleted else kv_pb2.Event.PUT, kv=self.item.message())


class _Lease:
    def __init__(self, ttl_s: int, ends_at: float) -> None:
        self.ttl_s = ttl_s
        self.ends_at = ends_at
        self.keys: dict[bytes, None] = {}


class EtcdModel:
    """`apply(request, now)` for each kind of request. `changes` is the whole history, compacted or not."""

    def __init__(self, *, quota_bytes: int = 1 << 40) -> None:
        self.revision = 1
        self.compacted = 0
        self.quota_bytes = quota_bytes
        self.alarmed = False
        self.exceeded_by: list[Any] = []
        """The requests that found no space, each applied and refused: after it there is the alarm. Not one that changed
        nothing, as a late copy does."""
        self.bytes_in_use = 0
        self.file_bytes = 0
        self.changes: list[tuple[Change, ...]] = []
        """Of revision 2 + index."""
        self._items: dict[bytes, Stored] = {}
        self._keys: list[bytes] = []
        self._ever: list[bytes] = []
        """Every key there ever was, for reading at an older revision."""
        self._versions: dict[bytes, list[tuple[int, Stored | None]]] = {}
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 1000
        self._open: list[Change] = []

    # -- requests

    def apply(self, request: Any, now: float) -> Any:
        """The answer to one request. Raises EtcdError; then nothing has changed, except with a quota just exceeded."""
        self.expire(now)
        if len(request.SerializeToString()) > MAX_REQUEST_BYTES:
            raise EtcdError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
        name = type(request).__name__
        if name == "RangeRequest":
            return self.range(request)
        if name == "TxnRequest":
            return self._guarded(request, lambda: self._txn(request))
        if name == "PutRequest":
            return self._guarded(request, lambda: self._put_alone(request))
        if name == "DeleteRangeRequest":
            return self._close(self._delete(request))
        if name == "LeaseGrantRequest":
            return self._guarded(request, lambda: self._grant(request, now))
        if name == "LeaseRevokeRequest":
            return self._revoke(request.ID)
        if name == "LeaseKeepAliveRequest":
            return self._keep_alive(request.ID, now)
        if name == "CompactionRequest":
            return self._compact(request.revision)
        if name == "AlarmRequest":
            return self._alarm(request)
        if name == "DefragmentRequest":
            self.file_bytes = self.bytes_in_use
            return rpc_pb2.DefragmentResponse(header=self.header())
        if name == "StatusRequest":
            alarms = ["memberID:1 alarm:NOSPACE "] if self.alarmed else []
            return rpc_pb2.StatusResponse(
                header=self.header(), version="3.4.23", dbSize=self.file_bytes, dbSizeInUse=self.bytes_in_use, leader=1,
                errors=alarms,
            )  # fmt: skip
        raise EtcdError(grpc.StatusCode.UNIMPLEMENTED, f"the model does not know {name}: teach it")

    def value(self, key: str) -> bytes:
        """What is stored under a key now; empty if there is none."""
        item = self._items.get(key.encode())
        return b"" if item is None else item.value

    def header(self) -> Any:
        return rpc_pb2.ResponseHeader(revision=self.revision)

    def range(self, request: Any) -> Any:
        """Ascending by key. Raises for a revision that is compacted or not yet there."""
        if request.revision > self.revision:
            raise EtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        if 0 < request.revision < self.compacted:
            raise EtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        found = self._at(request)
        limited = found[: request.limit] if request.limit else found
        return rpc_pb2.RangeResponse(
            header=self.header(),
            kvs=[] if request.count_only else [item.message(keys_only=request.keys_only) for item in limited],
            more=len(limited) < len(found) and not request.count_only,
            count=len(found),
        )

    def _at(self, request: Any) -> list[Stored]:
        if request.revision and request.revision < self.revision:
            keys = _within(self._ever, request.key, request.range_end)
            old = (self._as_of(key, request.revision) for key in keys)
            return [item for item in old if item is not None]
        if not request.range_end:
            item = self._items.get(request.key)
            return [] if item is None else [item]
        return [self._items[key] for key in _within(self._keys, request.key, request.range_end)]

    def _as_of(self, key: bytes, revision: int) -> Stored | None:
        versions = self._versions[key]
        at = bisect_right(versions, revision, key=lambda version: version[0])
        return versions[at - 1][1] if at else None

    # -- writing

    def _guarded(self, request: Any, work: Any) -> Any:
        """etcd checks its quota before it applies, and tells after: the first too many is applied *and* refused.

        A transaction that only deletes, or reads, is refused as well while the file is as large as the quota: etcd 3.5
        asks its quota about every transaction, whatever is in it.
        """
        writes = _bytes_written(request)
        full = type(request).__name__ == "TxnRequest" and self.file_bytes >= self.quota_bytes
        self.alarmed = self.alarmed or full
        if full or (writes and self.alarmed):
            raise EtcdError(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        exceeded = bool(writes) and self.file_bytes + writes > self.quota_bytes
        before = self.revision
        answer = work()
        if exceeded:
            self.alarmed = True
            if self.revision > before:
                self.exceeded_by.append(request)
            raise EtcdError(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        return answer

    def _txn(self, request: Any) -> Any:
        for operations in (request.compare, request.success, request.failure):
            if len(operations) > MAX_OPERATIONS:
                raise EtcdError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
        for branch in (request.success, request.failure):
            _check_branch(branch)
        succeeded = all(self._holds(compare) for compare in request.compare)
        branch = request.success if succeeded else request.failure
        for operation in branch:
            if operation.WhichOneof("request") == "request_put":
                self._check_lease(operation.request_put)
        answers = [self._operate(operation) for operation in branch]
        return self._close(rpc_pb2.TxnResponse(succeeded=succeeded, responses=answers))

    def _holds(self, compare: Any) -> bool:
        keys = _within(self._keys, compare.key, compare.range_end) if compare.range_end else [compare.key]
        # Over no key at all a comparison is one with a key that does not exist.
        return all(self._compare(compare, self._items.get(key)) for key in keys or [b""])

    def _compare(self, compare: Any, item: Stored | None) -> bool:
        target = compare.WhichOneof("target_union")
        if item is None and target == "value":
            return False
        present = 0 if item is None else getattr(item, target)
        return bool(_RESULTS[compare.result](present, getattr(compare, target)))

    def _operate(self, operation: Any) -> Any:
        kind = operation.WhichOneof("request")
        if kind == "request_put":
            self._put(operation.request_put)
            return rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse())
        if kind == "request_range":
            return rpc_pb2.ResponseOp(response_range=self.range(operation.request_range))
        return rpc_pb2.ResponseOp(response_delete_range=self._delete(operation.request_delete_range))

    def _put_alone(self, request: Any) -> Any:
        self._check_lease(request)
        self._put(request)
        return self._close(rpc_pb2.PutResponse())

    def _check_lease(self, put: Any) -> None:
        if put.lease and put.lease not in self._leases:
            raise EtcdError(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")

    def _put(self, put: Any) -> None:
        revision, before = self.revision + 1, self._items.get(put.key)
        item = Stored(
            put.key,
            put.value,
            revision if before is None else before.create_revision,
            revision,
            1 if before is None else before.version + 1,
            put.lease,
        )
        if before is None:
            insort(self._keys, put.key)
            if put.key not in self._versions:
                insort(self._ever, put.key)
        elif before.lease:
            self._leases[before.lease].keys.pop(put.key, None)
        if put.lease:
            self._leases[put.lease].keys[put.key] = None
        self._items[put.key] = item
        self._grow(len(put.key) + len(put.value) + KEY_OVERHEAD)
        self._open.append(Change(item, False))
        self._versions.setdefault(put.key, []).append((revision, item))

    def _delete(self, request: Any) -> Any:
        keys = _within(self._keys, request.key, request.range_end)
        for key in keys:
            self._remove(key)
        return rpc_pb2.DeleteRangeResponse(deleted=len(keys))

    def _remove(self, key: bytes) -> None:
        item = self._items.pop(key)
        del self._keys[bisect_left(self._keys, key)]
        if item.lease:
            self._leases[item.lease].keys.pop(key, None)
        self._grow(len(key) + KEY_OVERHEAD)
        self._open.append(Change(Stored(key, b"", 0, self.revision + 1, 0, 0), True))
        self._versions[key].append((self.revision + 1, None))

    def _close(self, answer: Any) -> Any:
        """What one request changed is one revision; a request that changed nothing makes none."""
        if self._open:
            self.revision += 1
            self.changes.append(tuple(self._open))
            self._open = []
        answer.header.CopyFrom(self.header())
        return answer

    # -- leases

    def expire(self, now: float) -> None:
        """End the leases whose time is over."""
        for lease, kept in list(self._leases.items()):
            if kept.ends_at <= now:
                self._revoke(lease)

    def restart_leases(self, now: float) -> None:
        """A new leader gives every lease its whole time again."""
        for kept in self._leases.values():
            kept.ends_at = now + kept.ttl_s

    def _grant(self, request: Any, now: float) -> Any:
        ttl_s = max(request.TTL, LEAST_TTL_S)
        lease = request.ID or self._next_lease
        self._next_lease += 1
        self._leases[lease] = _Lease(ttl_s, now + ttl_s)
        return rpc_pb2.LeaseGrantResponse(header=self.header(), ID=lease, TTL=ttl_s)

    def _revoke(self, lease: int) -> Any:
        if lease not in self._leases:
            raise EtcdError(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        for key in sorted(self._leases[lease].keys):
            self._remove(key)
        del self._leases[lease]
        return self._close(rpc_pb2.LeaseRevokeResponse())

    def _keep_alive(self, lease: int, now: float) -> Any:
        kept = self._leases.get(lease)
        if kept is not None:
            kept.ends_at = now + kept.ttl_s
        return rpc_pb2.LeaseKeepAliveResponse(header=self.header(), ID=lease, TTL=0 if kept is None else kept.ttl_s)

    # -- space

    def _compact(self, revision: int) -> Any:
        if revision <= self.compacted:
            raise EtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        if revision > self.revision:
            raise EtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        self.compacted = revision
        live = sum(len(item.key) + len(item.value) + KEY_OVERHEAD for item in self._items.values())
        younger = sum(
            len(change.item.key) + len(change.item.value) + KEY_OVERHEAD
            for changes in self.changes[revision - 1 :]
            for change in changes
        )
        # Freed pages stay in the file and are used again.
        self.bytes_in_use = min(self.bytes_in_use, live + younger)
        return rpc_pb2.CompactionResponse(header=self.header())

    def _alarm(self, request: Any) -> Any:
        if request.action == rpc_pb2.AlarmRequest.DEACTIVATE:
            self.alarmed = False
        raised = [rpc_pb2.AlarmMember(memberID=1, alarm=rpc_pb2.NOSPACE)] if self.alarmed else []
        return rpc_pb2.AlarmResponse(header=self.header(), alarms=raised)

    def disarm(self) -> None:
        """What an operator does: defragment, then clear the alarm."""
        self.file_bytes = self.bytes_in_use
        self.alarmed = False

    def _grow(self, size: int) -> None:
        self.bytes_in_use += size
        self.file_bytes = max(self.file_bytes, self.bytes_in_use)


def _within(keys: list[bytes], start: bytes, end: bytes) -> list[bytes]:
    """The keys in [start, end); `end` empty: `start` alone; a zero byte: to the last key."""
    first = bisect_left(keys, start)
    if not end:
        return keys[first : first + 1] if first < len(keys) and keys[first] == start else []
    return keys[first:] if end == b"\0" else keys[first : bisect_left(keys, end)]


def _bytes_written(request: Any) -> int:
    """As etcd's quota counts: what the larger branch would put."""
    name = type(request).__name__
    if name == "LeaseGrantRequest":
        return KEY_OVERHEAD
    if name == "PutRequest":
        return len(request.key) + len(request.value) + KEY_OVERHEAD
    return max(
        sum(
            len(operation.request_put.key) + len(operation.request_put.value) + KEY_OVERHEAD
            for operation in branch
            if operation.WhichOneof("request") == "request_put"
        )
        for branch in (request.success, request.failure)
    )


def _check_branch(branch: Any) -> None:
    """A key may be put once, and not be deleted as well."""
    put = [operation.request_put.key for operation in branch if operation.WhichOneof("request") == "request_put"]
    deleted = [
        (operation.request_delete_range.key, operation.request_delete_range.range_end)
        for operation in branch
        if operation.WhichOneof("request") == "request_delete_range"
    ]
    twice = len(set(put)) < len(put)
    if twice or any(_within([key], start, end) for key in put for start, end in deleted):
        raise EtcdError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
