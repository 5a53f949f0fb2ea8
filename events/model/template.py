"""Template: the published versions of one application template of a team. A version, once published, never changes.

Knows what was published; an app keeps for itself which version it has, so a removed one is still its base.
"""

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem
from events.model.template_parts import Document, document_problem, version_problem

MAX_VERSIONS = 1000  # of one template


class Version(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`digest`: of the document. A removed version keeps its name: nothing else may ever be published under it."""

    digest: str
    removed: bool = False


class TemplateState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`versions` by name, in the order in which they were first published."""

    team: str = ""
    name: str = ""
    versions: dict[str, Version] = {}


class TemplatePublished(Event, frozen=True):
    """`digest`: the sha256 of the document's canonical JSON. `source`: the app it was taken from, or the file."""

    team: str
    name: str
    label: str
    digest: str
    document: Document
    source: str = ""


class TemplateRemoved(Event, frozen=True):
    label: str


class PublishTemplate(Command, frozen=True):
    team: str
    name: str
    label: str
    document: Document
    source: str = ""


class RemoveTemplate(Command, frozen=True):
    label: str


TemplateEvent = TemplatePublished | TemplateRemoved
TemplateCommand = PublishTemplate | RemoveTemplate


def template_stream(team: str, name: str) -> str:
    """The stream of a team's template."""
    return f"template/{team}.{name}"


def apply(state: TemplateState, event: TemplateEvent, at: int) -> TemplateState:
    match event:
        case TemplatePublished(label=label, digest=digest):
            versions = {**state.versions, label: Version(digest=digest)}
            return TemplateState(team=event.team, name=event.name, versions=versions)
        case TemplateRemoved(label=label):
            gone = msgspec.structs.replace(state.versions[label], removed=True)
            return msgspec.structs.replace(state, versions={**state.versions, label: gone})


def decide(state: TemplateState, command: TemplateCommand, meta: Meta) -> Decision:
    match command:
        case PublishTemplate():
            return _publish(state, command)
        case RemoveTemplate(label=label):
            found = state.versions.get(label)
            if found is None or found.removed:
                message = f"there is no version {label[:60]!r} of this template"
                return Refusal(code="not_found", message=message, hint="rayfold template versions NAME")
            return [TemplateRemoved(label=label)]
    raise TypeError(f"not a template command: {type(command).__name__}")


def _publish(state: TemplateState, command: PublishTemplate) -> Decision:
    problem = name_problem("a template name", command.name) or version_problem(command.label)
    problem = problem or document_problem(command.document)
    if problem:
        return problem
    digest, found = command.document.digest(), state.versions.get(command.label)
    if found is not None and found.digest != digest:
        message = (
            f"{command.name}@{command.label} was published with other content: {found.digest[:12]}, and this is "
            f"{digest[:12]}"
        )
        return Refusal(code="conflict", message=message, hint="a version never changes: publish under another one")
    if found is not None and not found.removed:
        return []
    if found is None and len(state.versions) >= MAX_VERSIONS:
        return Refusal(code="invalid", message=f"expected at most {MAX_VERSIONS} versions of a template")
    return [
        TemplatePublished(
            team=command.team, name=command.name, label=command.label, digest=digest, document=command.document,
            source=command.source,
        )
    ]  # fmt: skip
