"""The resources as Envoy should have them now, by type and name, each with a version made from its content.

Knows names, versions and bytes; not what is in them, and not who has received them.
"""

from collections.abc import KeysView, Mapping

import msgspec
import xxhash

_PREFIX = "type.googleapis.com/envoy.config."
CDS = f"{_PREFIX}cluster.v3.Cluster"
EDS = f"{_PREFIX}endpoint.v3.ClusterLoadAssignment"
LDS = f"{_PREFIX}listener.v3.Listener"
ROUTES = f"{_PREFIX}route.v3.ScopedRouteConfiguration"
ORDER = (CDS, EDS, LDS, ROUTES)
"""Make before break: what others point to goes first."""


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One xDS resource, serialized. `needs` names the clusters it points to.

    `version` depends on the content alone: a gateway that starts anew finds that Envoy already holds the same.
    """

    name: str
    version: str
    body: bytes
    needs: tuple[str, ...] = ()


def content_version(body: bytes) -> str:
    """The version of a serialized resource."""
    return xxhash.xxh3_64_hexdigest(body)


class Catalog:
    """The wanted state. `generation` grows by one with each change, so that progress can be told in one number."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, Resource]] = {type_url: {} for type_url in ORDER}
        self.generation = 0
        self._doubtful: frozenset[str] | None = None
        self._gone: set[tuple[str, str]] = set()

    def leave(self, names: frozenset[str]) -> None:
        """From now on what Envoy holds under one of these names, or under one that never was in here, stays as it is:
        what would be known of it could not be read."""
        self._doubtful = names

    def leaves(self, type_url: str, name: str) -> bool:
        """Whether Envoy is to keep what it holds under this name, whatever is in here."""
        if self._doubtful is None or type_url == LDS:
            return False
        known = name in self._resources[type_url] or (type_url, name) in self._gone
        return name in self._doubtful or not known

    def get(self, type_url: str, name: str) -> Resource | None:
        return self._resources[type_url].get(name)

    def version(self, type_url: str, name: str) -> str:
        """The wanted version, or "" when there should be no such resource."""
        resource = self._resources[type_url].get(name)
        return resource.version if resource else ""

    def names(self, type_url: str) -> KeysView[str]:
        return self._resources[type_url].keys()

    def update(self, changes: Mapping[str, Mapping[str, Resource | None]]) -> dict[str, list[str]]:
        """Put (or, for None, remove) resources by type and name; returns the names that really changed, by type."""
        changed: dict[str, list[str]] = {}
        for type_url, resources in changes.items():
            names = [
                name
                for name, resource in resources.items()
                if (resource.version if resource else "") != self.version(type_url, name)
            ]
            for name in names:
                resource = resources[name]
                if resource is None:
                    del self._resources[type_url][name]
                    self._gone.add((type_url, name))
                else:
                    self._resources[type_url][name] = resource
            if names:
                changed[type_url] = names
        if changed:
            self.generation += 1
        return changed
