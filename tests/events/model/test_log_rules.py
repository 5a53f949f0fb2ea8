"""Rules for log lines as a team's events: set, changed in part, given back to wider ones, refused with a reason."""

import pytest

from events.model import team
from events.model.base import Meta, Refusal
from events.model.log_rules import LogRules

META = Meta(command_id="c", at=1)


def after(*commands: team.TeamCommand) -> team.TeamState:
    state = team.TeamState()
    for command in (team.CreateTeam(name="red"), *commands):
        decided = team.decide(state, command, META)
        assert not isinstance(decided, Refusal), decided
        for event in decided:
            state = team.apply(state, event, 1)  # type: ignore[arg-type]
    return state


def test_rules_are_changed_in_part_and_given_back() -> None:
    state = after(
        team.ChangeLogRules(rules=LogRules(keep_days=7, redact=("a=1",))),
        team.ChangeLogRules(rules=LogRules(component_mib=4), unset=("keep_days",)),
        team.ChangeLogRules(scope="shop/web", rules=LogRules(keep_days=0)),
    )
    assert state.log_rules == {
        "": LogRules(component_mib=4, redact=("a=1",)), "shop/web": LogRules(keep_days=0)
    }  # fmt: skip
    gone = team.decide(state, team.ChangeLogRules(scope="shop/web", unset=("keep_days",)), META)
    assert gone == [team.TeamLogRulesChanged(scope="shop/web")]
    [event] = gone
    assert "shop/web" not in team.apply(state, event, 2).log_rules
    assert team.decide(state, team.ChangeLogRules(rules=LogRules(component_mib=4)), META) == []


@pytest.mark.parametrize(
    ("scope", "rules", "unset"),
    [
        ("shop", LogRules(keep_days=1), ()),
        ("shop/../x", LogRules(keep_days=1), ()),
        ("shop/web", LogRules(team_gib=1), ()),
        ("shop/web", LogRules(kib_per_second=1), ()),
        ("", LogRules(keep_days=-1), ()),
        ("", LogRules(keep_days=float("nan")), ()),
        ("", LogRules(component_mib=0), ()),
        ("", LogRules(redact=("x",) * 21), ()),
        ("", LogRules(redact=("",)), ()),
        ("", LogRules(redact=("a\nb",)), ()),
        ("", LogRules(), ("everything",)),
    ],
)
def test_what_makes_no_sense_is_refused(scope: str, rules: LogRules, unset: tuple[str, ...]) -> None:
    decided = team.decide(after(), team.ChangeLogRules(scope=scope, rules=rules, unset=unset), META)
    assert isinstance(decided, Refusal) and decided.code == "invalid"
    assert isinstance(team.decide(team.TeamState(), team.ChangeLogRules(), META), Refusal)
