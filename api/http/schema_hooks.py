"""The bodies of webhooks: where they are sent, and what became of one.

Shapes only; it knows nothing of how a request is served.
"""

from api.http.schema import View


class HookView(View):
    """What to enter at GitHub, GitLab or Gitea; `path` follows the address at which this platform is reached."""

    path: str
    secret: str
    content_type: str


class HookAnswer(View):
    """`deployed` false: nothing was to be done, and why."""

    deployed: bool
    reason: str
    operation: str | None
