"""What is still referred to: kept releases, builds on their way; and no answer while anything may be missing."""

from collections.abc import Iterator

import pytest

from events.log.memory import MemoryEventLog
from events.model.base import service_id_of
from events.model.build import Artifact, BuildRequested, BuildStarted, BuildSucceeded, Source
from events.model.component_commands import Deploy, PruneReleases
from events.model.template import TemplatePublished, TemplateRemoved
from events.model.template_parts import Document, TemplateComponent
from projections.database import Database
from projections.projector import Projector
from projections.references import NotCertain, References, references
from projections.schema import PARKED
from tests.projections.recorder import RecordedWorld, Recorder, append, log_of, tell_component

WEB = service_id_of("default", "shop", "web")


async def folded(database: Database, recorder: Recorder) -> tuple[MemoryEventLog, dict[int, int]]:
    log = await log_of(recorder.records)
    await catch_up(database, log)
    return log, await tails(log)


async def catch_up(database: Database, log: MemoryEventLog) -> None:
    projector = Projector(database, log)
    await projector.catch_up()
    await projector.close()


async def tails(log: MemoryEventLog) -> dict[int, int]:
    return {partition: await log.tail(partition) for partition in range(log.partitions)}


def building(recorder: Recorder, *, operation: str, digest: str = "", at: int = 77) -> None:
    build_id = f"{WEB}-{operation}"
    request = BuildRequested(
        build_id=build_id, service_id=WEB, team="default", app="shop", component="web", operation=operation,
        source=Source(kind="upload", digest="d"), timeout_seconds=60,
    )  # fmt: skip
    recorder.add(f"build/{build_id}", request, at=at)
    recorder.add(f"build/{build_id}", BuildStarted(builder="b", attempt=1), at=at + 1)
    if digest:
        made = Artifact(digest=digest, size_bytes=1, processes={"web": "run"})
        recorder.add(f"build/{build_id}", BuildSucceeded(artifact=made), at=at + 2)


@pytest.fixture
def told() -> Iterator[tuple[Recorder, RecordedWorld]]:
    recorder = Recorder()
    yield recorder, tell_component(recorder)


async def test_kept_releases_are_referred_to_and_pruned_ones_are_not(
    database: Database, told: tuple[Recorder, RecordedWorld]
) -> None:
    recorder, world = told
    before = {release.artifact.digest for release in world.state.releases.values()}
    world.send(PruneReleases(keep=1))
    after = {release.artifact.digest for release in world.state.releases.values()}
    assert after < before
    _, upto = await folded(database, recorder)
    found = references(database, upto)
    assert (found.artifacts, found.oldest_build_at, found.oldest_operation_at) == (after, 0, 0)
    assert (found.services, found.building, found.uploads) == ({WEB}, {}, frozenset())


async def test_a_build_that_is_no_release_yet_is_referred_to_while_its_deploy_goes_on(
    database: Database, told: tuple[Recorder, RecordedWorld]
) -> None:
    recorder, world = told
    world.builds_end = False
    building(recorder, operation=world.send(Deploy(source=Source(kind="upload", digest="d"))), digest="on its way")
    building(recorder, operation="of nobody", digest="of no deploy")
    building(recorder, operation="running", at=900)
    building(recorder, operation="running too", at=500)
    _, upto = await folded(database, recorder)
    found = references(database, upto)
    assert "on its way" in found.artifacts and "of no deploy" not in found.artifacts
    assert found.oldest_build_at == 501
    assert (found.building, found.uploads) == ({WEB: "default/shop/web"}, {"d"})
    deploy = next(each for each in reversed(recorder.records) if each.type == "DeployRequested")
    assert found.oldest_operation_at == deploy.at > 0


async def test_there_is_no_answer_while_the_read_models_are_behind(
    database: Database, told: tuple[Recorder, RecordedWorld]
) -> None:
    recorder, world = told
    log, upto = await folded(database, recorder)
    references(database, upto)
    known = len(recorder.records)
    world.send(PruneReleases(keep=1))
    await append(log, recorder.records[known:])
    with pytest.raises(NotCertain, match="is at"):
        references(database, await tails(log))
    await catch_up(database, log)
    references(database, await tails(log))


async def test_there_is_no_answer_while_a_stream_is_parked(
    database: Database, told: tuple[Recorder, RecordedWorld]
) -> None:
    _, upto = await folded(database, told[0])
    row = {c.key: 0 if c.type.python_type is int else "x" for c in PARKED.c} | {"projection": "releases"}
    database.transact(lambda connection: connection.execute(PARKED.insert().values(**row)))
    with pytest.raises(NotCertain, match="could not fold x"):
        references(database, upto)


def test_there_is_no_answer_from_a_database_that_has_folded_nothing(database: Database) -> None:
    assert references(database, {0: 0}) == References(artifacts=frozenset(), oldest_build_at=0)
    with pytest.raises(NotCertain):
        references(database, {0: 1})


async def test_what_a_template_pins_is_referred_to_until_the_version_is_removed(database: Database) -> None:
    recorder, artifact = Recorder(), Artifact(digest="d" * 64, size_bytes=1, processes={"web": "run"})
    web = TemplateComponent(name="web", process="web", http=True, artifact=artifact)
    document = Document(components=(web,))
    published = TemplatePublished(team="default", name="shop", label="1.0", digest=document.digest(), document=document)
    recorder.add("template/default.shop", published)
    log, upto = await folded(database, recorder)
    assert references(database, upto).artifacts == {"d" * 64}

    await append(log, [recorder.add("template/default.shop", TemplateRemoved(label="1.0"))])
    await catch_up(database, log)
    assert references(database, await tails(log)).artifacts == set()
