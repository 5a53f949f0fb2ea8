"""Asking what a team reads a URL with: whoever serves the team's stream answers, however often that moves meanwhile."""

from typing import Any

import pytest

from actors.cluster import links as module
from actors.cluster.directory import ActorUnreachable
from actors.cluster.links import AccessLinks
from actors.supervisor.orders import SourceAccess
from tests.actors.cluster.test_router import Log

URL = "https://git.example.com/acme/shop"


class Owners:
    """Supervisors, as a directory finds them: `answers` in order, the last one for ever."""

    def __init__(self, *answers: SourceAccess | Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str, str]] = []

    async def call(self, actor: str, method: str, team: str, url: str, *, seconds: float | None = None) -> Any:
        self.asked.append((actor, method, team, url))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AWAY_SECONDS", 0.001)


def access_links(owners: Owners, log: Log) -> AccessLinks:
    return AccessLinks(directory=owners, event_log=log)  # type: ignore[arg-type] # the directory's one method


async def test_the_owner_is_asked_again_while_the_stream_moves_or_changes() -> None:
    found = SourceAccess(name="ci", secret="x")
    owners = Owners(ActorUnreachable("away"), None, found)
    assert await access_links(owners, Log()).source_access("red", URL) == found
    assert owners.asked == [("a", "source_access", "red", URL)] * 3


async def test_nobody_is_asked_for_a_url_that_leads_to_no_host() -> None:
    owners = Owners(None)
    for url in ("/srv/git/shop", "file:///srv/git/shop"):
        assert await access_links(owners, Log()).source_access("red", url) == SourceAccess()
    assert owners.asked == []


async def test_it_gives_up_with_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCESS_SECONDS", 0.01)
    with pytest.raises(ActorUnreachable, match="credentials of team red: a is away"):
        await access_links(Owners(ActorUnreachable("a is away")), Log()).source_access("red", URL)
    log = Log()
    log.owners.clear()
    with pytest.raises(ActorUnreachable, match="nobody serves the stream of team red"):
        await access_links(Owners(None), log).source_access("red", URL)


def test_no_secret_is_shown_by_what_travels() -> None:
    assert "hunter2" not in repr(SourceAccess(name="ci", secret="hunter2", host_keys=("x",)))
