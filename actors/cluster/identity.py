"""Which platform a log belongs to, written beside it in etcd: where its data are, and the name by which Ray tells its
actors from another platform's. Knows one key; nothing of the log.
"""

import msgspec

from events.log.etcd_client import EtcdClient


class OtherPlatform(Exception):
    """The log is that of a platform that runs from another data directory; the message says which."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`ray_namespace` is one platform's for as long as its log lives; `data` is its data directory, which may move."""

    data: str
    ray_namespace: str


def identity_key(namespace: str) -> str:
    """Of the platform whose log is in this namespace of etcd."""
    return f"/{namespace}/platform"


async def identify(client: EtcdClient, own: Identity, *, runs: bool) -> Identity:
    """Who the platform is that takes the log, `own` if nobody has had it. `runs`: whether actors serve the log now.

    Raises OtherPlatform when those are of another data directory.
    """
    namespace = client.settings.namespace
    key = identity_key(namespace)
    found = await client.get(key)
    if found is None:
        # Of two that start at once one is first, and the other sees here whose it is.
        await client.put_if_absent(key, msgspec.json.encode(own))
        found = await client.get(key)
    assert found is not None  # noqa: S101 -- nothing deletes it
    kept = msgspec.json.decode(found.value, type=Identity)
    if kept == own:
        return own
    if runs:
        raise OtherPlatform(
            f"expected a log of its own for {own.data}, found in etcd at {', '.join(client.settings.endpoints)}, "
            f"namespace {namespace}, that of the platform at {kept.data}, which is running; set another namespace "
            f"under [etcd] in {own.data}/config.toml, or end that one first: rayfold down --data {kept.data}"
        )
    # A log whose platform rests follows its data directory, or the one that was made in its place.
    moved = Identity(data=own.data, ray_namespace=kept.ray_namespace)
    await client.compare_and_put(key, msgspec.json.encode(moved), mod_revision=found.mod_revision)
    return moved
