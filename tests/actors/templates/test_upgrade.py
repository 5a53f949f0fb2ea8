"""An app becomes a template without its secrets, and an upgrade tells whose change each difference is."""

import msgspec
import pytest

from actors.templates.publish import Addresses, TemplateError, document_of, in_order
from actors.templates.upgrade import Action, Plan, plan
from events.model.build import Artifact
from events.model.component_parts import ComponentState, ComponentStatus, Release, Spec
from events.model.cron import Cron, CronJob
from events.model.template_parts import Document, TemplateComponent, Variable, document_problem

HERE = Addresses(hosts={"web": "shop.localhost", "db": "db.shop.localhost"}, port=8080)
THERE = Addresses(hosts={"web": "branch.localhost", "db": "db.branch.localhost"}, port=9090)
SHARED = "sealed:1:default:0123456789abcdef:fedcba9876543210:AAECAwQFBgcICQoLDA0ODw"
AGAIN = "sealed:1:default:0123456789abcdef:fedcba9876543210:AAECAwQFBgcICQoLDA0ODx"


def state(name: str, *, digest: str = "a", config: dict[str, str] | None = None, **fields: object) -> ComponentState:
    """A component that runs."""
    artifact = Artifact(digest=digest * 64, size_bytes=1, processes={name: "run"})
    spec = msgspec.structs.replace(Spec(config=config or {}, http=True, auto_host=HERE.hosts[name]), **fields)
    release = Release(number=1, operation="o", artifact=artifact, spec=spec, command="run")
    return ComponentState(
        status=ComponentStatus.ACTIVE, name=name, process=name, spec=spec, releases={1: release}, current=1,
        last_release=1,
    )  # fmt: skip


def shop() -> list[ComponentState]:
    web = {"DATABASE": "http://db.shop.localhost:8080/x", "SELF": "shop.localhost", "PASSWORD": AGAIN, "MAIL": "me@x"}
    return [state("web", config=web, scale=2), state("db", config={"PASSWORD": SHARED})]


def test_addresses_become_dependencies_and_come_back_as_those_of_the_new_app() -> None:
    document = document_of(shop(), addresses=HERE)

    assert [each.name for each in document.components] == ["db", "web"]
    web = document.components[1]
    assert web.needs == ("db",)
    assert THERE.filled(web.variables["DATABASE"].value) == "http://db.branch.localhost:9090/x"
    assert THERE.filled(web.variables["SELF"].value) == "branch.localhost"
    assert document_problem(document) is None


def test_no_secret_gets_in_and_one_that_is_shared_is_asked_for_once() -> None:
    document = document_of(shop(), addresses=HERE, required=["web.MAIL"], generated=["db.PASSWORD"])

    assert b"sealed:" not in document.encoded() and b"me@x" not in document.encoded()
    db, web = document.components
    assert db.variables == {"PASSWORD": Variable(secret=True, generated=True)}
    assert web.variables["PASSWORD"] == Variable(secret=True, same_as="db.PASSWORD")
    assert web.variables["MAIL"] == Variable(required=True)


def test_what_cannot_become_a_template_says_why() -> None:
    with pytest.raises(TemplateError, match="nothing is released"):
        document_of([ComponentState(name="web")], addresses=HERE)
    with pytest.raises(TemplateError, match=r"web\.NO"):
        document_of(shop(), addresses=HERE, required=["web.NO"])
    with pytest.raises(TemplateError, match=r"web\.A"):
        document_of([state("web", config={"A": "${rayfold:host:db}"})], addresses=HERE)
    with pytest.raises(TemplateError, match="found none"):
        document_of([], addresses=HERE)


def test_components_in_a_circle_still_have_an_order() -> None:
    made = [
        TemplateComponent(name=name, process="p", http=True, artifact=Artifact(digest="", size_bytes=0, processes={}),
                          needs=(other,))
        for name, other in (("b", "a"), ("a", "b"), ("c", "a"))
    ]  # fmt: skip
    assert [each.name for each in in_order(made)] == ["a", "b", "c"]


def compared(base: Document, new: Document, running: list[ComponentState], *, take: bool = False) -> Plan:
    return plan(base, new, {each.name: each for each in running}, addresses=HERE, take_theirs=take)


def actions(found: Plan) -> dict[str, Action]:
    return {f"{change.component}.{change.attribute}": change.action for change in found.changes}


def test_nothing_differs_right_after_an_installation() -> None:
    document = document_of(shop(), addresses=HERE)
    found = compared(document, document, shop())
    assert found.changes == ()
    assert not any(step.releases for step in found.steps)


def test_each_difference_is_told_by_whose_it_is() -> None:
    base = document_of([state("web", config={"A": "1", "B": "1", "C": "1", "D": "1", "E": "1"})], addresses=HERE)
    new = document_of(
        [state("web", digest="b", config={"A": "2", "B": "1", "C": "2", "F": "new", "E": "3"}, scale=3)], addresses=HERE
    )
    mine = state("web", config={"A": "1", "B": "mine", "C": "mine", "D": "1", "E": "3"}, scale=5, grace_seconds=99)

    found = compared(base, new, [mine])

    assert actions(found) == {
        "web.artifact": Action.CHANGE,
        "web.config.A": Action.CHANGE,
        "web.config.B": Action.KEEP,
        "web.config.C": Action.CONFLICT,
        "web.config.D": Action.CHANGE,
        "web.config.F": Action.ADD,
        "web.scale": Action.CONFLICT,
        "web.settings.grace_seconds": Action.KEEP,
    }
    [step] = found.steps
    assert step.artifact is not None and step.artifact.digest == "b" * 64
    assert (sorted(step.values), step.unset, step.scale, step.settings) == (["A", "F"], ("D",), None, {})

    theirs = compared(base, new, [mine], take=True)
    assert actions(theirs)["web.config.C"] is Action.TAKE
    assert actions(theirs)["web.config.B"] is Action.KEEP
    assert theirs.steps[0].scale == 3


def test_components_that_come_go_or_were_removed_by_hand() -> None:
    both, web, db = (document_of(states, addresses=HERE) for states in (shop(), shop()[:1], shop()[1:]))

    assert actions(compared(web, both, shop()[:1]))["db.component"] is Action.ADD
    assert actions(compared(both, web, shop()))["db.component"] is Action.LEAVE
    removed = compared(both, both, shop()[:1])
    assert actions(removed)["db.component"] is Action.KEEP
    assert [step.component.name for step in removed.steps] == ["web"]
    assert actions(compared(db, db, shop()[1:])) == {}


def test_a_new_secret_is_to_be_given_and_one_that_is_there_is_nobodys_business() -> None:
    base = document_of([state("web", config={"OLD": SHARED})], addresses=HERE)
    new = document_of([state("web", config={"OLD": SHARED, "NEW": AGAIN.replace("fedc", "0000")})], addresses=HERE)

    found = compared(base, new, [state("web", config={"OLD": SHARED.replace("fedc", "1111")})])

    assert actions(found) == {"web.config.NEW": Action.GIVE}
    assert list(found.steps[0].values) == ["NEW"]


def test_cron_jobs_are_compared_as_wholes() -> None:
    def with_job(schedule: str) -> ComponentState:
        job = CronJob(name="tidy", schedule=schedule, command="tidy")
        return msgspec.structs.replace(state("web"), crons={"tidy": Cron(job=job)})

    base, new = (document_of([with_job(each)], addresses=HERE) for each in ("@daily", "@weekly"))
    found = compared(base, new, [with_job("@daily")])
    assert actions(found) == {"web.cron.tidy": Action.CHANGE}
    assert found.steps[0].crons[0].schedule == "@weekly" and not found.steps[0].releases

    gone = compared(base, document_of([state("web")], addresses=HERE), [with_job("@daily")])
    assert gone.steps[0].crons_removed == ("tidy",)
