from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    WAITING: _ClassVar[Outcome]
    DEAD: _ClassVar[Outcome]
    STALE: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
WAITING: Outcome
DEAD: Outcome
STALE: Outcome

class Task(_message.Message):
    __slots__ = ("id", "payload", "key", "team", "priority", "needs", "delay_seconds", "visible_seconds", "max_attempts", "back_off_seconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BACK_OFF_SECONDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    payload: bytes
    key: str
    team: str
    priority: int
    needs: _containers.RepeatedScalarFieldContainer[str]
    delay_seconds: float
    visible_seconds: float
    max_attempts: int
    back_off_seconds: float
    def __init__(self, id: _Optional[str] = ..., payload: _Optional[bytes] = ..., key: _Optional[str] = ..., team: _Optional[str] = ..., priority: _Optional[int] = ..., needs: _Optional[_Iterable[str]] = ..., delay_seconds: _Optional[float] = ..., visible_seconds: _Optional[float] = ..., max_attempts: _Optional[int] = ..., back_off_seconds: _Optional[float] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("topic", "tasks")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    topic: str
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, topic: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class Published(_message.Message):
    __slots__ = ("id", "duplicate")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    duplicate: bool
    def __init__(self, id: _Optional[str] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("published",)
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    published: _containers.RepeatedCompositeFieldContainer[Published]
    def __init__(self, published: _Optional[_Iterable[_Union[Published, _Mapping]]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("topic", "consumer", "offers", "in_flight")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    topic: str
    consumer: str
    offers: _containers.RepeatedScalarFieldContainer[str]
    in_flight: int
    def __init__(self, topic: _Optional[str] = ..., consumer: _Optional[str] = ..., offers: _Optional[_Iterable[str]] = ..., in_flight: _Optional[int] = ...) -> None: ...

class ClaimRef(_message.Message):
    __slots__ = ("topic", "task", "claim")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    topic: str
    task: str
    claim: str
    def __init__(self, topic: _Optional[str] = ..., task: _Optional[str] = ..., claim: _Optional[str] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("ref", "payload", "attempt", "key", "team", "published_at_micros")
    REF_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEAM_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_AT_MICROS_FIELD_NUMBER: _ClassVar[int]
    ref: ClaimRef
    payload: bytes
    attempt: int
    key: str
    team: str
    published_at_micros: int
    def __init__(self, ref: _Optional[_Union[ClaimRef, _Mapping]] = ..., payload: _Optional[bytes] = ..., attempt: _Optional[int] = ..., key: _Optional[str] = ..., team: _Optional[str] = ..., published_at_micros: _Optional[int] = ...) -> None: ...

class AckRequest(_message.Message):
    __slots__ = ("claims",)
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[ClaimRef]
    def __init__(self, claims: _Optional[_Iterable[_Union[ClaimRef, _Mapping]]] = ...) -> None: ...

class AckResponse(_message.Message):
    __slots__ = ("accepted",)
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    accepted: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, accepted: _Optional[_Iterable[bool]] = ...) -> None: ...

class NackRequest(_message.Message):
    __slots__ = ("claims", "reason", "delay_seconds", "dead")
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DELAY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[ClaimRef]
    reason: str
    delay_seconds: float
    dead: bool
    def __init__(self, claims: _Optional[_Iterable[_Union[ClaimRef, _Mapping]]] = ..., reason: _Optional[str] = ..., delay_seconds: _Optional[float] = ..., dead: _Optional[bool] = ...) -> None: ...

class NackResponse(_message.Message):
    __slots__ = ("became",)
    BECAME_FIELD_NUMBER: _ClassVar[int]
    became: _containers.RepeatedScalarFieldContainer[Outcome]
    def __init__(self, became: _Optional[_Iterable[_Union[Outcome, str]]] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("claims", "seconds")
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    claims: _containers.RepeatedCompositeFieldContainer[ClaimRef]
    seconds: float
    def __init__(self, claims: _Optional[_Iterable[_Union[ClaimRef, _Mapping]]] = ..., seconds: _Optional[float] = ...) -> None: ...

class TopicsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TopicsResponse(_message.Message):
    __slots__ = ("topics",)
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, topics: _Optional[_Iterable[str]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("topic",)
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic: str
    def __init__(self, topic: _Optional[str] = ...) -> None: ...

class TopicStats(_message.Message):
    __slots__ = ("topic", "ready", "delayed", "blocked", "parked", "claimed", "dead", "consumers", "oldest_seconds")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DELAYED_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    topic: str
    ready: int
    delayed: int
    blocked: int
    parked: int
    claimed: int
    dead: int
    consumers: int
    oldest_seconds: float
    def __init__(self, topic: _Optional[str] = ..., ready: _Optional[int] = ..., delayed: _Optional[int] = ..., blocked: _Optional[int] = ..., parked: _Optional[int] = ..., claimed: _Optional[int] = ..., dead: _Optional[int] = ..., consumers: _Optional[int] = ..., oldest_seconds: _Optional[float] = ...) -> None: ...
