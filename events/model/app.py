"""App: a named group of components inside a team, and the order in which it goes away.

Knows its components by name and service_id only; what they run is their own story.
"""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, name_problem
from events.model.operation import OperationStarted, OperationSucceeded, OperationTimedOut
from events.model.template_parts import Document, Installed, document_problem

DESTROY_SECONDS = 900  # after that the operation ends as timed out; the destruction itself goes on


class AppStatus(StrEnum):
    """absent → active → destroying → destroyed; a destroyed app may be created again."""

    ABSENT = "absent"
    ACTIVE = "active"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class AppState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`components` maps a component's name to its service_id; `template`: what it was installed from."""

    status: AppStatus = AppStatus.ABSENT
    team: str = ""
    name: str = ""
    components: dict[str, str] = {}
    operation: str = ""
    deadline_at: int = 0
    template: Installed | None = None


class AppCreated(Event, frozen=True):
    team: str
    name: str


class ComponentRegistered(Event, frozen=True):
    name: str
    service_id: str


class ComponentDeregistered(Event, frozen=True):
    name: str


class TemplateInstalled(Event, frozen=True):
    """From now on the app's base is this version; its content stands here, so that it is known for ever."""

    template: str
    label: str
    document: Document


class AppDestroyRequested(Event, frozen=True):
    operation: str


class AppDestroyed(Event, frozen=True):
    pass


class CreateApp(Command, frozen=True):
    team: str
    name: str


class RegisterComponent(Command, frozen=True):
    name: str
    service_id: str


class DeregisterComponent(Command, frozen=True):
    """Sent by the supervisor when the component is gone."""

    name: str


class InstallTemplate(Command, frozen=True):
    """Have this version as base. `before`: the digest of the base it takes the place of; empty: of none."""

    template: str
    label: str
    document: Document
    before: str = ""


class DestroyApp(Command, frozen=True):
    pass


AppEvent = (
    AppCreated
    | ComponentRegistered
    | ComponentDeregistered
    | TemplateInstalled
    | AppDestroyRequested
    | AppDestroyed
    | OperationStarted
    | OperationSucceeded
    | OperationTimedOut
)
AppCommand = CreateApp | RegisterComponent | DeregisterComponent | InstallTemplate | DestroyApp


def apply(state: AppState, event: AppEvent, at: int) -> AppState:
    replace = msgspec.structs.replace
    match event:
        case AppCreated(team=team, name=name):
            return AppState(status=AppStatus.ACTIVE, team=team, name=name)
        case ComponentRegistered(name=name, service_id=service_id):
            return replace(state, components={**state.components, name: service_id})
        case ComponentDeregistered(name=name):
            return replace(state, components={k: v for k, v in state.components.items() if k != name})
        case TemplateInstalled(template=template, label=label, document=document):
            return replace(state, template=Installed(template=template, version=label, document=document))
        case AppDestroyRequested(operation=operation):
            return replace(state, status=AppStatus.DESTROYING, operation=operation)
        case AppDestroyed():
            return replace(state, status=AppStatus.DESTROYED, components={}, template=None)
        case OperationStarted(deadline_at=deadline_at):
            return replace(state, deadline_at=deadline_at)
        case OperationSucceeded() | OperationTimedOut():
            return replace(state, operation="", deadline_at=0)


def decide(state: AppState, command: AppCommand, meta: Meta) -> Decision:
    match command:
        case CreateApp(team=team, name=name):
            if state.status is AppStatus.DESTROYING:
                return Refusal(
                    code="conflict",
                    message=f"app {name} is being destroyed (operation {state.operation})",
                    hint=f"rayfold operations {state.operation}",
                )
            if state.status is AppStatus.ACTIVE:
                return Refusal(code="conflict", message=f"app {name} exists already in team {team}")
            return name_problem("an app name", name) or [AppCreated(team=team, name=name)]
        case DeregisterComponent(name=name):
            return [ComponentDeregistered(name=name)] if name in state.components else []
        case _ if state.status is not AppStatus.ACTIVE:
            return Refusal(code="not_found", message="no such app", hint="rayfold apps create NAME")
        case RegisterComponent(name=name, service_id=service_id):
            if name in state.components:
                return []
            return name_problem("a component name", name) or [ComponentRegistered(name=name, service_id=service_id)]
        case InstallTemplate():
            return _install(state, command)
        case DestroyApp():
            operation = meta.command_id
            return [
                OperationStarted(
                    operation=operation,
                    kind="destroy-app",
                    detail=state.name,
                    deadline_at=meta.at + DESTROY_SECONDS * 1_000_000,
                    by=meta.actor,
                    why=meta.reason,
                ),
                AppDestroyRequested(operation=operation),
            ]
    raise TypeError(f"not an app command: {type(command).__name__}")


def _install(state: AppState, command: InstallTemplate) -> Decision:
    wanted = Installed(template=command.template, version=command.label, document=command.document)
    if state.template == wanted:
        return []
    if problem := document_problem(command.document):
        return problem
    found = state.template.document.digest() if state.template else ""
    if found != command.before:
        has = f"{state.template.template}@{state.template.version}" if state.template else "no template"
        message = f"app {state.name} has {has}, which is not what was asked for"
        return Refusal(code="conflict", message=message, hint="look again: rayfold template upgrade APP --dry-run")
    if not command.before and state.components:
        message = f"app {state.name} has components of its own already: {', '.join(sorted(state.components)[:5])}"
        return Refusal(code="conflict", message=message, hint="install it as a new app: --app NAME")
    return [TemplateInstalled(template=command.template, label=command.label, document=command.document)]


def progress(state: AppState, now: int) -> list[Event]:
    """What follows by itself: an app whose last component is gone is destroyed, whether anybody still waits or not."""
    if state.status is not AppStatus.DESTROYING:
        return []
    if not state.components:
        told = [OperationSucceeded(operation=state.operation, detail="every component is gone")]
        return [AppDestroyed(), *(told if state.operation else [])]
    if state.operation and now >= state.deadline_at:
        left = ", ".join(sorted(state.components))
        return [OperationTimedOut(operation=state.operation, reason=f"still being stopped, and going on: {left}")]
    return []


def next_deadline(state: AppState, now: int) -> int | None:
    """When to ask `progress` again although nothing happened (microseconds UTC)."""
    return state.deadline_at if state.operation and state.deadline_at > now else None
