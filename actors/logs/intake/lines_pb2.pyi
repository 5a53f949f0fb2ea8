from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Line(_message.Message):
    __slots__ = ("at_micros", "text", "source", "instance", "release", "partial", "gap")
    AT_MICROS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    at_micros: int
    text: str
    source: str
    instance: str
    release: int
    partial: bool
    gap: int
    def __init__(self, at_micros: _Optional[int] = ..., text: _Optional[str] = ..., source: _Optional[str] = ..., instance: _Optional[str] = ..., release: _Optional[int] = ..., partial: _Optional[bool] = ..., gap: _Optional[int] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("id", "stream", "source_id", "after", "upto", "lines", "outcome", "at_micros")
    ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    UPTO_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    AT_MICROS_FIELD_NUMBER: _ClassVar[int]
    id: int
    stream: str
    source_id: str
    after: int
    upto: int
    lines: _containers.RepeatedCompositeFieldContainer[Line]
    outcome: str
    at_micros: int
    def __init__(self, id: _Optional[int] = ..., stream: _Optional[str] = ..., source_id: _Optional[str] = ..., after: _Optional[int] = ..., upto: _Optional[int] = ..., lines: _Optional[_Iterable[_Union[Line, _Mapping]]] = ..., outcome: _Optional[str] = ..., at_micros: _Optional[int] = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("id", "code", "message", "stored", "first", "next_number", "duplicate")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: str
    message: str
    stored: int
    first: int
    next_number: int
    duplicate: bool
    def __init__(self, id: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., stored: _Optional[int] = ..., first: _Optional[int] = ..., next_number: _Optional[int] = ..., duplicate: _Optional[bool] = ...) -> None: ...
