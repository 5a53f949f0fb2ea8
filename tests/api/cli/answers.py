"""What the API answers the commands under test: whole views with few fields of interest, and a deploy that succeeds."""

import hashlib

from api.http import schema as s
from api.http.schema_deploy import UploadJoined
from tests.api.cli.conftest import Asked, ContractServer, frames

IDS = {"team": "default", "app": "shop", "component": "web"}


def component(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = dict(
        **IDS, service_id="ab", process="web", status="active", version=9, release=2, scale=1, stopped=False, ready=1,
        http=True, urls=["http://shop.localhost:8080/"], settings={"grace_seconds": "10"}, operation=None,
        created_at=None, updated_at=None,
    )  # fmt: skip
    return s.ComponentView.model_validate(fields | changes).model_dump(mode="json")


def accepted(operation: str | None = "op1") -> tuple[int, object]:
    return 202, s.Accepted(team="default", operation=operation, position="3:0", stream="component/ab", version=9)


def operation_view(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = dict(
        **IDS, operation="op1", kind="deploy", status="succeeded", phase="done", detail="", result="", code="",
        reason="", lines=[], still_serving=0, release=2, build=None, parent=None, actor="admin", message="",
        stream="component/ab", position="3:9", started_at=None, ended_at=None, steps=[],
    )  # fmt: skip
    return s.OperationView.model_validate(fields | changes).model_dump(mode="json")


def page(*items: object) -> tuple[int, object]:
    return 200, {"items": list(items), "next_cursor": None}


def parts_in(bundle: bytes) -> list[bytes]:
    """What stands behind each length."""
    found = []
    while bundle:
        end = 4 + int.from_bytes(bundle[:4], "big")
        found.append(bundle[4:end])
        bundle = bundle[end:]
    return found


def deploys(server: ContractServer, events: list[dict[str, object]], *, there: bool = False) -> None:
    def join(asked: Asked) -> tuple[int, object]:
        """Misses every part that was not put."""
        wanted = [part["sha256"] for part in asked.body["parts"]]  # type: ignore[index]
        put = {hashlib.sha256(part).hexdigest() for bundle in server.of("putParts") for part in parts_in(bundle.raw)}
        missing = [] if there else [sha256 for sha256 in wanted if sha256 not in put]
        return 200, UploadJoined(team="default", sha256=asked.body["sha256"], size_bytes=None, missing=missing)  # type: ignore[index]

    server.answers |= {
        "joinUpload": join,
        "putParts": (201, {}),
        "deploy": accepted(),
        "followOperation": frames(*events),
        "getComponent": (200, component()),
        "getOperation": (200, operation_view()),
    }
