"""Finds actors by name and calls them; an actor that is away is one typed error, whatever Ray calls it.

Handles are a cache. Safety never rests on a name: the log's fence decides whose word counts.
"""

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import PendingCallsLimitExceeded, RayError
from ray.util import get_node_ip_address, list_named_actors

CALL_SECONDS = 10.0


def sockets_here(run: Path) -> Path:
    """Where the actors of this machine listen for one another; by its address in the cluster, for machines may share a
    file system, and none is to be reached past the network."""
    return run / "actors" / str(get_node_ip_address())  # type: ignore[no-untyped-call]


class ActorUnreachable(Exception):
    """The actor is not there, has died, or did not answer in time. The call may have had its effect."""


class ActorBusy(ActorUnreachable):
    """Too many calls wait for the actor already. This one was not made."""


class Directory:
    """Calls named actors of this platform: this process is one, and names are looked up among its own."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def call(self, actor: str, method: str, *args: object, seconds: float | None = CALL_SECONDS) -> Any:
        """Call `method` of the named actor. `seconds` None: wait as long as it lives. Raises ActorUnreachable; what
        the method itself raises comes through."""
        handle = await self._handle(actor)
        try:
            async with asyncio.timeout(seconds):
                return await getattr(handle, method).remote(*args)
        except TimeoutError as error:
            raise ActorUnreachable(f"{actor}.{method} did not answer within {seconds} s") from error
        except PendingCallsLimitExceeded as error:
            raise ActorBusy(f"{actor} has as many calls waiting as it may; try again later") from error
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Exception) and not isinstance(cause, RayError):
                raise cause from error
            self._handles.pop(actor, None)
            raise ActorUnreachable(f"{actor}.{method}: {type(error).__name__}") from error

    async def names(self, pool: str) -> list[str]:
        """The actors of a pool that Ray knows now, those included that are on their way to start or to end."""
        try:
            present = await asyncio.to_thread(list_named_actors)
        except RayError as error:
            raise ActorUnreachable(f"expected a list of actors, found {type(error).__name__}") from error
        return sorted(name for name in present if name.rpartition("-")[0] == pool)

    async def _handle(self, actor: str) -> Any:
        handle = self._handles.get(actor)
        if handle is None:
            try:
                handle = await asyncio.to_thread(ray.get_actor, actor)
            except (ValueError, RayError) as error:
                raise ActorUnreachable(f"expected an actor called {actor}, found none") from error
            self._handles[actor] = handle
        return handle
