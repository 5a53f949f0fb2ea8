"""The routes of a team's credentials for private sources, and of the host keys it trusts."""

from api.http import queries as q
from api.http import schema as s
from api.http import schema_credentials as c
from api.http.route import TEAM, Route, command, get

_CREDENTIAL = TEAM + "/credentials/{credential}"
_HOST = TEAM + "/host-keys/{host}"
CREDENTIALS: tuple[Route, ...] = (
    get(
        "listCredentials",
        TEAM + "/credentials",
        "What private sources are read with; never a secret.",
        s.Page[c.CredentialView],
        q.Nothing,
    ),
    command(
        "putCredential",
        "PUT",
        _CREDENTIAL,
        "Keep a token or an ssh key for a URL prefix.",
        c.PutCredential,
        answer=c.CredentialKept,
        status=200,
    ),
    command("removeCredential", "DELETE", _CREDENTIAL, "Keep it no more.", None, q.Destroy),
    get("listHostKeys", TEAM + "/host-keys", "The ssh host keys it trusts.", s.Page[c.HostKeysView], q.Nothing),
    command("pinHostKeys", "PUT", _HOST, "Trust exactly these keys of a host.", c.PinHostKeys),
    command("unpinHostKeys", "DELETE", _HOST, "Trust what the platform's user trusts.", None, q.Destroy),
)
