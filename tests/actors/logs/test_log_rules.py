"""What an operator decides about lines reaches each stream, the nearest decision first; bad rules are said at once."""

import pytest

from actors.logs.errors import BadQuery
from actors.logs.rules import ComponentLines, LinesSettings, NamedPolicies, TeamLines

SETTINGS = LinesSettings(
    keep_days=30,
    redact=(r"Bearer \S+",),
    teams={
        "red": TeamLines(
            keep_days=7,
            team_gib=1,
            redact=(r"card=(\d+)",),
            components={"shop/web": ComponentLines(component_mib=5, redact=(r"pin=\d+",))},
        )
    },
)
NAMES = {"aa": ("red", "shop", "web"), "bb": ("red", "shop", "worker"), "cc": ("blue", "shop", "web")}


def test_the_nearest_decision_wins_and_rules_add_up() -> None:
    policies = NamedPolicies(SETTINGS)
    assert policies.of("aa").team == "" and policies.of("aa").keep_seconds == 30 * 86_400
    policies.names = NAMES
    web, worker, blue = (policies.of(stream) for stream in ("aa", "bb", "cc"))
    assert (web.keep_seconds, web.bytes, web.team_bytes) == (7 * 86_400, 5 << 20, 1 << 30)
    assert (worker.keep_seconds, worker.bytes) == (7 * 86_400, 1024 << 20)
    assert (blue.team, blue.keep_seconds, blue.team_bytes) == ("blue", 30 * 86_400, 20 << 30)
    assert policies.of("build/aa-0123") == web
    text = "Bearer abc card=4111 pin=12"
    shown = [each.redactor.text(text) for each in (web, worker, blue) if each.redactor]
    assert shown == ["•••• card=•••• ••••", "•••• card=•••• pin=12", "•••• card=4111 pin=12"]


@pytest.mark.parametrize("rule", ["(", "", "a*", "(?=x)", "x" * 501])
def test_a_rule_that_cannot_be_used_is_refused(rule: str) -> None:
    with pytest.raises(BadQuery):
        LinesSettings(teams={"red": TeamLines(redact=(rule,))}).check()
