"""The route that takes many changes at once."""

from api.http import schema_commands as many
from api.http.route import Route

COMMANDS: tuple[Route, ...] = (
    Route(
        id="sendCommands",
        method="POST",
        path="/v1/commands",
        summary="Change many components: each as its own request would, and answered as that.",
        answer=many.CommandResults,
        body=many.SendCommands,
        reach="token",
        keyed=False,
        codes=(429, 503),
    ),
)
