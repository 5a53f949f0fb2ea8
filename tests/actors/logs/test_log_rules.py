"""What an operator decides about lines reaches each stream, the nearest decision first; bad rules are said at once."""

import pytest

from actors.logs.errors import BadQuery
from actors.logs.rules import ComponentLines, LinesSettings, NamedPolicies, TeamLines
from events.model.log_rules import LogRules

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
    policies.learn(NAMES, {})
    web, worker, blue = (policies.of(stream) for stream in ("aa", "bb", "cc"))
    assert (web.keep_seconds, web.bytes, web.team_bytes) == (7 * 86_400, 5 << 20, 1 << 30)
    assert (worker.keep_seconds, worker.bytes) == (7 * 86_400, 1024 << 20)
    assert (blue.team, blue.keep_seconds, blue.team_bytes) == ("blue", 30 * 86_400, 20 << 30)
    assert policies.of("build/aa-0123") == web
    text = "Bearer abc card=4111 pin=12"
    shown = [each.redactor.text(text) for each in (web, worker, blue) if each.redactor]
    assert shown == ["•••• card=•••• ••••", "•••• card=•••• pin=12", "•••• card=4111 pin=12"]


def test_what_a_team_decided_comes_before_the_file_and_a_component_before_its_team() -> None:
    policies = NamedPolicies(SETTINGS)
    policies.learn(NAMES, {})
    before = policies.of("aa")
    of_team = LogRules(keep_days=1, component_mib=9, kib_per_second=64, redact=(r"user=\d+",))
    own = LogRules(keep_days=0, redact=(r"(", r"ip=\S+"))
    policies.learn(NAMES, {("red", ""): of_team, ("red", "shop/web"): own})
    web, worker, blue = (policies.of(stream) for stream in ("aa", "bb", "cc"))
    assert (web.keep_seconds, web.bytes) == (0, 5 << 20), "the file's word on the component is nearer than its team's"
    assert (worker.keep_seconds, worker.bytes, worker.bytes_per_second) == (86_400, 9 << 20, 65_536)
    assert blue == policies.of("cc") and blue.bytes_per_second == 20_480 * 1024
    assert web.redactor and web.redactor.text("user=1 ip=::1 pin=3") == "•••• •••• ••••"
    policies.learn(NAMES, {})
    assert policies.of("aa").keep_seconds == before.keep_seconds


@pytest.mark.parametrize("rule", ["(", "", "a*", "(?=x)", "x" * 501])
def test_a_rule_that_cannot_be_used_is_refused(rule: str) -> None:
    with pytest.raises(BadQuery):
        LinesSettings(teams={"red": TeamLines(redact=(rule,))}).check()
