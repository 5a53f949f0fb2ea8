"""How a start went: whether the platform serves, what in it waits for a person, and what went wrong last.

Knows the API's own answers and the journals of the platform's processes; starts nothing.
"""

import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from actors.cluster.settings import PlatformSettings

LAST_WORDS = 5  # errors that are shown of a start that failed, one of each process
JOURNAL_BYTES = 64 << 10  # from the end of each, in which the last error is looked for


class _Check(msgspec.Struct, frozen=True):
    name: str
    ok: bool
    found: str = ""
    fix: str = ""
    waiting: bool = False


class _Readiness(msgspec.Struct, frozen=True):
    checks: list[_Check] = []


def waiting(settings: PlatformSettings) -> list[str]:
    """What serves and waits for a person, as the API says it to the administrator."""
    url = f"http://{settings.bind}:{settings.api_port}/v1/status"
    try:
        token = settings.admin_token_file.read_text().strip()
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310
            checks = msgspec.json.decode(answer.read(), type=_Readiness).checks
    except (msgspec.MsgspecError, OSError):
        return []  # `rayfold status` says it as well
    return [f"{check.name}: {check.found}; {check.fix}".rstrip("; ") for check in checks if check.waiting]


def serves(url: str) -> bool:
    """Whether everything is ready, or waits for a person, who sees to it with the platform's help: read models are
    rebuilt through the API, and what of the log is whole is to be served."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- our own loopback address
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refusal:
        try:
            checks = msgspec.json.decode(refusal.read(), type=_Readiness).checks
        except (msgspec.MsgspecError, OSError):
            return False
        return bool(checks) and all(check.ok or check.waiting for check in checks)
    except (urllib.error.URLError, OSError):
        return False


class _Line(msgspec.Struct):
    """Of a journal: see actors/cluster/journal.py."""

    level: str = ""
    event: str = ""
    timestamp: str = ""
    error: str = ""
    exception: str = ""


def last_errors(journals: Path, began: float) -> list[str]:
    """The newest warning or error of each process that has written one since `began` (seconds UTC)."""
    found: list[str] = []
    since = datetime.fromtimestamp(began, UTC).isoformat()
    for journal in sorted(journals.glob("*-*.log")):
        with journal.open("rb") as file:
            file.seek(max(0, journal.stat().st_size - JOURNAL_BYTES))
            lines = file.read().splitlines()
        for raw in reversed(lines):
            try:
                line = msgspec.json.decode(raw, type=_Line)
            except msgspec.MsgspecError:
                continue  # the first may be cut; Ray's own lines are none
            if line.timestamp < since:
                break
            why = line.error or line.exception.strip().rpartition("\n")[2]
            if line.level in ("warning", "error") and why:
                found.append(f"{journal.name}: {line.event}: {why}"[:400])
                break
    return found[:LAST_WORDS]
