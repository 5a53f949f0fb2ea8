"""The read models tell what happened: one recorded story, folded, then asked about."""

import asyncio
from collections.abc import Iterator

import pytest

from events.model.base import service_id_of
from projections import queries
from projections.database import Database
from projections.errors import BadCursor
from projections.projector import Projector
from projections.views import OperationView
from tests.projections.recorder import WEB, log_of, tell_everything


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The whole story folded into either kind of database; these tests only read."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('sql') / 'rayfold.db'}"
    else:
        url = request.getfixturevalue("postgres")
    database = Database(url)
    database.migrate()
    asyncio.run(_fold(database))
    yield database
    database.close()


async def _fold(database: Database) -> None:
    projector = Projector(database, await log_of(tell_everything()))
    await projector.catch_up()
    await projector.close()


def test_a_token_stands_for_its_team_until_it_is_revoked(story: Database) -> None:
    assert queries.resolve_token(story, "a" * 64) is None
    assert queries.resolve_token(story, "b" * 64) == "default"
    assert queries.resolve_token(story, "c" * 64) == "other"
    assert queries.resolve_token(story, "d" * 64) is None
    assert [t.name for t in queries.list_tokens(story, "default").items] == ["second"]
    assert [t.name for t in queries.list_teams(story).items] == ["default", "other"]


def test_apps_list_their_components_and_leave_out_the_destroyed(story: Database) -> None:
    shop = queries.get_app(story, "default", "shop")
    assert shop is not None
    assert (shop.components, shop.status, shop.version) == ({"web": WEB}, "active", 2)
    old = queries.get_app(story, "default", "old")
    assert old is not None
    assert (old.status, old.operation) == ("destroying", "gone")
    assert queries.get_app(story, "other", "shop") is None
    assert [a.name for a in queries.list_apps(story, "default").items] == ["old", "shop"]


def test_a_component_shows_what_is_wanted_what_serves_and_where(story: Database) -> None:
    web = queries.get_component(story, "default", "shop", "web")
    last = [r for r in tell_everything() if r.stream == f"component/{WEB}"][-1]
    assert web is not None
    assert (web.version, web.updated_at) == (last.version, last.at)
    assert (web.status, web.scale, web.operation) == ("active", 1, "")
    assert web.hosts == ("shop.localhost",)
    assert web.spec.config == {}, "the new life of the name begins without the old one's configuration"
    assert web.current == web.last_release > web.born_after > 0
    assert queries.get_component(story, "other", "shop", "web") is None


def test_another_life_of_a_component_keeps_what_its_own_story_gave_it(story: Database) -> None:
    theirs = queries.get_component(story, "other", "theirs", "web")
    assert theirs is not None
    assert theirs.spec.config == {"EARLY": "1"}, "rolled back from KEY=value"
    assert theirs.scale == 3
    assert [e.draining for e in theirs.endpoints] == [False, False, False]
    assert theirs.applied_version == theirs.routing_version > 0


def test_releases_carry_their_fate(story: Database) -> None:
    fates = [(r.number, r.status) for r in queries.list_releases(story, "other", "theirs", "web").items]
    assert fates == [(7, "current"), (6, "failed"), (5, "failed"), (4, "succeeded"), (3, "succeeded"),
                     (2, "succeeded"), (1, "succeeded")]  # fmt: skip
    rollback = queries.get_release(story, "other", "theirs", "web", 4)
    assert rollback is not None
    assert (rollback.rollback_of, rollback.reason, rollback.created_by) == (2, "the new one is slow", "tester")
    assert rollback.release.spec.config == {"EARLY": "1"}
    current = queries.get_release(story, "other", "theirs", "web", 0)
    assert current is not None
    assert current.number == 7
    failed = queries.get_release(story, "other", "theirs", "web", 5)
    assert failed is not None
    assert "crashed" in failed.failure


def test_releases_of_an_earlier_life_are_not_listed(story: Database) -> None:
    assert [r.number for r in queries.list_releases(story, "default", "shop", "web").items] == [8]


def test_builds_tell_source_outcome_and_the_lines_that_matter(story: Database) -> None:
    failed, made = queries.list_builds(story, "default", app="shop").items
    assert (failed.status, failed.code, failed.lines, failed.attempt) == ("failed", "no_lock", ("x", "y"), 1)
    assert (made.status, made.seconds, made.cache_hit) == ("succeeded", 1.5, True)
    assert made.artifact is not None
    assert made.artifact.detected == "Python because of setup.py"
    assert made.source.digest == "d"
    assert queries.get_build(story, "other", made.build_id) is None
    assert queries.list_builds(story, "default", status="failed").items == (failed,)


def test_rollouts_end_in_one_way(story: Database) -> None:
    rollouts = queries.list_rollouts(story, "other", app="theirs").items
    assert {r.release: r.status for r in rollouts} == {
        1: "succeeded", 2: "succeeded", 3: "succeeded", 4: "succeeded", 5: "failed", 6: "failed", 7: "succeeded",
    }  # fmt: skip
    by_release = {r.release: r for r in rollouts}
    assert by_release[6].reason == "wrong branch"
    assert by_release[7].phase == "done"
    assert by_release[7].created_at <= by_release[7].started_at <= by_release[7].switched_at <= by_release[7].ended_at


def test_instances_show_who_runs_and_why_the_others_ended(story: Database) -> None:
    alive = queries.list_instances(story, "other", app="theirs").items
    assert [(i.status, i.alive, i.port > 0, i.node) for i in alive] == [("ready", True, True, "node1")] * 3
    ended = [i for i in queries.list_instances(story, "other", app="theirs", ended=True).items if not i.alive]
    crashed = [i for i in ended if i.status == "crashed"]
    assert ("boom\0",) in [i.lines for i in crashed]
    task = next(i for i in ended if i.kind == "task")
    assert (task.status, task.exit_code, task.command) == ("exited", 0, "migrate")
    assert {i.status for i in ended} == {"crashed", "stopped", "exited"}


def test_ended_instances_are_bounded(story: Database) -> None:
    page = queries.list_instances(story, "default", app="shop", ended=True, limit=200)
    ended = [i for i in page.items if not i.alive]
    assert len(ended) == 50
    assert {i.status for i in ended} == {"crashed"}, "the newest are kept"


def test_routes_are_what_the_gateways_have_and_claims_who_holds_them(story: Database) -> None:
    routes = queries.list_routes(story, "other").items
    assert [(r.host, r.path, r.ready_endpoints, r.applied) for r in routes] == [("theirs.localhost", "/", 3, True)]
    assert queries.get_claim(story, "a.example.com", "/") is None
    held = queries.get_claim(story, "shop.example.com", "/api")
    assert held is not None
    assert (held.team, held.service_id) == ("default", WEB)
    assert queries.list_claims(story, "other").items == ()


def test_operations_end_with_their_reason_and_show_each_phase(story: Database) -> None:
    operations = queries.list_operations(story, "other", app="theirs").items
    told = [(o.kind, o.status, o.code) for o in reversed(operations)]
    assert told == [
        ("config", "succeeded", ""), ("deploy", "succeeded", ""), ("scale", "succeeded", ""),
        ("routes", "succeeded", ""), ("rollback", "succeeded", ""), ("run", "succeeded", ""),
        ("deploy", "failed", "crashed"), ("deploy", "cancelled", "cancelled"), ("deploy", "succeeded", ""),
    ]  # fmt: skip
    last, cancelled, failed, task = operations[0], operations[1], operations[2], operations[3]
    phases = [s.phase for s in last.steps]
    assert phases == ["accepted", "building", "claiming", "starting", "switched", "done", "siblings"]
    assert [(s.process, s.ended, s.succeeded) for s in last.siblings] == [("worker", True, True)]
    assert (cancelled.reason, cancelled.cancel_reason) == ("wrong branch", "wrong branch")
    assert (failed.still_serving, failed.release) == (4, 5)
    assert failed.lines == ("boom",)
    assert task.instance.startswith(service_id_of("other", "theirs", "web"))
    assert queries.get_operation(story, "other", last.id) == last
    gone = queries.get_operation(story, "default", "gone")
    assert gone is not None
    assert (gone.kind, gone.status, gone.app) == ("destroy-app", "running", "old")


def test_nodes_say_when_they_are_lost(story: Database) -> None:
    assert [(n.name, n.status, n.reason) for n in queries.list_nodes(story).items] == [
        ("node1", "ready", ""),
        ("node2", "lost", "no word for 30 s"),
    ]


def test_a_list_is_paged_without_a_gap_or_a_repetition(story: Database) -> None:
    whole = queries.list_operations(story, "default", limit=200)
    assert whole.next_cursor == ""
    seen: list[OperationView] = []
    cursor = ""
    while True:
        page = queries.list_operations(story, "default", cursor=cursor, limit=3)
        assert len(page.items) <= 3
        seen += page.items
        cursor = page.next_cursor
        if not cursor:
            break
    assert tuple(seen) == whole.items


@pytest.mark.parametrize("cursor", ["nonsense", "W10", "é", "WzEsMl0", "WyJhIiwiYiIsImMiXQ", "=", "\0"])
def test_a_cursor_that_is_none_is_refused(story: Database, cursor: str) -> None:
    with pytest.raises(BadCursor, match="expected a cursor"):
        queries.list_operations(story, "default", cursor=cursor)
