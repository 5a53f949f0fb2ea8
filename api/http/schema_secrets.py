"""Request and response bodies about secrets and the keys that seal them. Shapes only; no clear value is ever in one."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.http.schema import Body, Reason, View

KeyId = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{16})?$")]


class SecretView(View):
    """A variable that is sealed. `fingerprint`: the same for the same value; `readable`: its key still stands."""

    team: str
    app: str
    component: str
    name: str
    fingerprint: str
    key: str
    readable: bool


class KeyView(View):
    """A data key, by its id. `active`: it seals what is set now."""

    team: str
    key: str
    active: bool
    created_at: datetime
    destroyed_at: datetime | None
    destroyed_by: str
    reason: str


class DestroyKey(Body):
    """`key`: the newest one by default."""

    key: KeyId = ""
    reason: Reason = ""


class RotatedView(View):
    """Ids of the master keys, and how many data keys were wrapped anew."""

    before: str
    after: str
    rewrapped: int
