"""What a build's artifact is made of, how two differ, and how many releases with their artifacts are kept."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web
from pydantic import JsonValue

from actors.builder.artifacts import DirectoryArtifactStore, read_manifest
from actors.builder.errors import ArtifactError
from actors.builder.retention import Swept
from actors.builder.sbom import NotASbom, changes, told_of, versions_in
from api.http import schema_builds as b
from api.http import shown
from api.http.answers import answer
from api.http.call import Call
from api.http.changing import Change, Changer, alone
from api.http.handlers.changes import component_state
from api.http.handlers.past import history_of
from api.http.problems import not_found
from api.http.queries import DiffBuilds
from api.http.services import PlatformAway
from events.model.build import Artifact, BuildStatus
from events.model.component_commands import PruneReleases, SetRetention
from events.model.component_events import ReleasesPruned
from events.model.registry import decode_event
from projections.views import BuildView

T = TypeVar("T")


async def get_sbom(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    build = await call.context.reads.build(call)

    def told(document: bytes, made: Artifact) -> bytes:
        told_about = {"build": build.build_id, "commit": made.commit, "author": made.author, "lock": made.lock_hash}
        name = f"{build.team}/{build.app}/{build.component}"
        return told_of(document, name=name, version=made.digest, properties=told_about)

    found, missing = await _sbom(call, build, told)
    if found is None:
        raise not_found(missing, hint="rayfold builds info; deploy again for a new artifact")
    return web.Response(body=found, content_type="application/json", headers={"Cache-Control": "no-store"})


async def _sbom(call: Call, build: BuildView, read: Callable[[bytes, Artifact], T]) -> tuple[T | None, str]:
    """What `read` makes of the stored bill of materials; None, and why there is none."""
    if build.status != BuildStatus.SUCCEEDED.value or build.artifact is None:
        return None, f"build {build.build_id} made no artifact: it is {build.status}"
    made = build.artifact
    store = DirectoryArtifactStore(call.context.services.artifacts)
    try:
        manifest = await read_manifest(store, made.digest)
        if manifest.sbom is None:
            return None, f"the artifact of build {build.build_id} has no bill of materials: nobody looks into its image"
        path = await store.local_path(manifest.sbom.digest)
        return await asyncio.to_thread(lambda: read(path.read_bytes(), made)), ""
    except FileNotFoundError:
        return None, f"the artifact of build {build.build_id} was removed just now"
    except (ArtifactError, NotASbom) as error:
        return None, f"the artifact of build {build.build_id} is gone, pruned or damaged: {error}"


async def diff_builds(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    before = await call.context.reads.build(call)
    after = await call.context.reads.build(call, call.query_as(DiffBuilds).to)
    first, missing = await _sbom(call, before, _versions)
    second, also_missing = await _sbom(call, after, _versions)
    packages = None
    if first is not None and second is not None:
        found = changes(first, second)
        packages = [b.PackageChanged(package=c.package, before=c.before or None, after=c.after or None) for c in found]
    view = b.BuildDiff(
        team=before.team,
        app=before.app,
        component=before.component,
        before=before.build_id,
        after=after.build_id,
        changes=shown.changes(_facts(before), _facts(after)),
        size_bytes=_size(after) - _size(before),
        packages=packages,
        packages_missing=missing or also_missing,
    )
    return answer(view)


def _versions(document: bytes, made: Artifact) -> dict[str, list[str]]:
    return versions_in(document)


def _facts(build: BuildView) -> dict[str, JsonValue]:
    source = {f"source.{key}": text for key, text in msgspec.to_builtins(build.source).items()} if build.source else {}
    commit, author = build.source.said_of_upload() if build.source else ("", "")
    if commit:
        del source["source.ref"]  # the same two again
    facts: dict[str, JsonValue] = {**source, "status": build.status, "commit": commit, "author": author}
    made = build.artifact
    if made is not None:
        facts |= {"commit": made.commit or commit, "author": made.author or author}
        facts |= {"artifact": made.digest, "lock": made.lock_hash}
        facts |= {"language": made.language, "detected": made.detected, "size_bytes": made.size_bytes}
        facts |= {f"processes.{name}": words for name, words in made.processes.items()}
    return {key: value for key, value in facts.items() if value not in ("", None)}


def _size(build: BuildView) -> int:
    return build.artifact.size_bytes if build.artifact else 0


async def get_retention(call: Call) -> web.Response:
    state = await component_state(call)
    view = b.RetentionView(
        team=state.team,
        app=state.app,
        component=state.name,
        keep=state.releases_kept,
        releases=sorted(state.releases, reverse=True),
    )
    return answer(view)


async def change_retention(call: Call) -> Change:
    body = call.body_as(b.ChangeRetention)
    return Change(order=SetRetention(keep=body.keep), reason=body.reason, lasts=False)


async def prune(call: Call) -> web.Response:
    body = call.body_as(b.Prune)
    await call.context.reads.wait_for(call)
    row = await call.context.reads.component(call)
    stream = f"component/{row.service_id}"
    reply = await call.context.submit(call, stream, PruneReleases(keep=body.keep), reason=body.reason)
    await call.context.accepted(reply, stream)
    # What went is in the event, also of a request that is sent again; where nothing went there is none.
    records = [stored.record for stored in await history_of(call, stream)]
    found = [decode_event(each) for each in records if each.command_id == reply.command_id]
    gone = [each for each in found if isinstance(each, ReleasesPruned)]
    swept = await _swept(call)
    view = b.PrunedView(
        team=row.team,
        app=row.app,
        component=row.name,
        releases=sorted({number for each in gone for number in each.releases}, reverse=True),
        artifacts=sorted({digest for each in gone for digest in each.artifacts}),
        # Of all teams' artifacts: how much goes of theirs is no business of this one's.
        freed_bytes=None if call.principal.team else swept.freed_bytes,
        trouble=swept.trouble,
        told="" if call.principal.team else swept.told,
    )
    return answer(view)


async def _swept(call: Call) -> Swept:
    """The releases are gone in any case; what they were made of goes now, or with the next round."""
    try:
        return await call.context.services.platform.sweep_artifacts()
    except PlatformAway as error:
        return Swept(trouble=f"{error}; what nothing refers to is removed within some minutes")


CHANGES: dict[str, Changer] = {"changeRetention": change_retention}

HANDLERS = {
    **{name: alone(changer) for name, changer in CHANGES.items()},
    "getSbom": get_sbom,
    "diffBuilds": diff_builds,
    "getRetention": get_retention,
    "prune": prune,
}
