"""Answers a builder that asks what a team reads a URL with: the team's own credentials, opened for this answer.

Knows a team's state and the keyring; nothing of git, nor of how the answer travels.
"""

import re

import msgspec

from actors.supervisor.orders import SourceAccess
from events.model.team import TeamState
from events.model.team_credentials import credential_for, host_keys_for, place_name
from events.secrets.errors import SecretError
from events.secrets.keyring import Keyring

_HINT_FOR_VARIABLES = re.compile(r"; set it (?:anew|again): .*")


async def source_access(state: TeamState, url: str, keys: Keyring) -> SourceAccess:
    """What `state`'s team reads `url` with. Raises LogUnavailable while the keys are away."""
    found = SourceAccess(host_keys=host_keys_for(state.host_keys, url))
    chosen = credential_for(state.credentials, url)
    if chosen is None:
        return found
    name, held = chosen
    found = msgspec.structs.replace(
        found, name=name, prefix=held.prefix, kind=held.kind, user=held.user, public=held.public
    )
    place = place_name(name, held.prefix)
    try:
        opened = await keys.open_all(state.name, f"team/{state.name}", {place: held.secret})
    except SecretError as error:
        return msgspec.structs.replace(found, unreadable=_HINT_FOR_VARIABLES.sub("", str(error)))
    return msgspec.structs.replace(found, secret=opened[place])
