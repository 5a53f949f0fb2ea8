"""Versions of a template never change; an app knows which it has; what nobody could install is refused, with why."""

import msgspec
import pytest

from events.model import app, template
from events.model.base import Command, Event, Meta, Refusal
from events.model.build import Artifact
from events.model.component_parts import MAX_SCALE
from events.model.registry import aggregate_of
from events.model.template_parts import MAX_COMPONENTS, Document, TemplateComponent, Variable, document_problem

META = Meta(command_id="c", at=5, actor="ann", reason="so")
ARTIFACT = Artifact(digest="ab" * 32, size_bytes=1, processes={"web": "run"})
SEALED = "sealed:1:default:0123456789abcdef:fedcba9876543210:AAECAwQFBgcICQoLDA0ODw"


def component(name: str = "web", **fields: object) -> TemplateComponent:
    given: dict[str, object] = {"process": "web", "http": True, "artifact": ARTIFACT, **fields}
    return msgspec.convert({"name": name, **{k: msgspec.to_builtins(v) for k, v in given.items()}}, TemplateComponent)


def document(*components: TemplateComponent, description: str = "") -> Document:
    return Document(components=components or (component(),), description=description)


class Told:
    """One stream, told commands."""

    def __init__(self, stream: str) -> None:
        self._of = aggregate_of(stream)
        self.state = self._of.state()

    def tell(self, command: Command) -> list[Event]:
        decision = self._of.decide(self.state, command, META)
        assert not isinstance(decision, Refusal), decision
        for event in decision:
            self.state = self._of.apply(self.state, event, META.at)
        return list(decision)

    def refused(self, command: Command) -> Refusal:
        decision = self._of.decide(self.state, command, META)
        assert isinstance(decision, Refusal), decision
        return decision


def publish(content: Document, label: str = "1.0", name: str = "shop") -> template.PublishTemplate:
    return template.PublishTemplate(team="default", name=name, label=label, document=content)


def test_the_same_content_is_published_once_and_other_content_needs_another_version() -> None:
    told = Told("template/default.shop")
    [event] = told.tell(publish(document()))
    assert isinstance(event, template.TemplatePublished) and event.digest == document().digest()

    assert told.tell(publish(document())) == []
    assert told.refused(publish(document(description="other"))).code == "conflict"
    assert len(told.tell(publish(document(description="other"), "1.1"))) == 1


def test_a_removed_version_comes_back_as_it_was_and_never_as_another() -> None:
    told = Told("template/default.shop")
    told.tell(publish(document()))
    told.tell(template.RemoveTemplate(label="1.0"))

    assert told.refused(template.RemoveTemplate(label="1.0")).code == "not_found"
    assert told.refused(publish(document(description="other"))).code == "conflict"
    assert len(told.tell(publish(document()))) == 1


@pytest.mark.parametrize("label", ["", "-1", "a/b", "1 0", "x" * 41, "1.0\n"])
def test_a_version_has_a_plain_name(label: str) -> None:
    assert Told("template/default.shop").refused(publish(document(), label)).code == "invalid"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (document(component(scale=MAX_SCALE + 1)), "scale"),
        (document(component(settings={"memory_bytes": "1"})), "memory_bytes"),
        (document(component(), component()), "twice"),
        (document(component(needs=("db",))), "needs"),
        (document(component("A")), "component name"),
        (document(component(process="cron")), "process"),
        (document(component(artifact=Artifact(digest="../x", size_bytes=1, processes={"web": ""}))), "sha256"),
        (document(component(variables={"PORT": Variable(value="1")})), "PORT"),
        (document(component(variables={"A": Variable(value=SEALED)})), "secret"),
        (document(component(variables={"A": Variable(value="clear", secret=True)})), "secret"),
        (document(component(variables={"A": Variable(same_as="web.A")})), "no variable"),
        (document(component(variables={"A": Variable(same_as="db.A")})), "no variable"),
        (document(*(component(f"c{n}") for n in range(MAX_COMPONENTS + 1))), "components"),
        (
            document(component(variables={"A": Variable(value="x" * 60_000), "B": Variable(value="x" * 60_000)})),
            "bytes",
        ),
    ],
)
def test_what_could_not_be_installed_is_not_published(content: Document, word: str) -> None:
    problem = document_problem(content)
    assert problem is not None and problem.code == "invalid" and word in problem.message
    assert Told("template/default.shop").refused(publish(content)) == problem


def test_an_app_keeps_the_content_it_has_and_moves_only_from_what_was_looked_at() -> None:
    told, first, second = Told("app/default.branch"), document(), document(description="two")
    told.tell(app.CreateApp(team="default", name="branch"))
    install = app.InstallTemplate(template="shop", label="1.0", document=first)
    told.tell(install)
    told.tell(app.RegisterComponent(name="web", service_id="ab"))

    assert told.state.template.document == first
    assert told.tell(install) == []
    upgrade = app.InstallTemplate(template="shop", label="2.0", document=second)
    assert told.refused(upgrade).code == "conflict"
    told.tell(msgspec.structs.replace(upgrade, before=first.digest()))
    assert told.state.template.version == "2.0"


def test_an_app_of_ones_own_is_not_overwritten() -> None:
    told = Told("app/default.mine")
    told.tell(app.CreateApp(team="default", name="mine"))
    told.tell(app.RegisterComponent(name="api", service_id="ab"))

    refusal = told.refused(app.InstallTemplate(template="shop", label="1.0", document=document()))
    assert refusal.code == "conflict" and "api" in refusal.message
