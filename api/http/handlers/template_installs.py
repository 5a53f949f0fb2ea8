"""Installing a template as a new app, and upgrading an app that was installed from one.

Every step is an ordinary command under an id derived from the request's own, and is left out when what it would do is
there: a repetition, also under another key, goes on where the first attempt was cut off and does nothing twice.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping

from aiohttp import web

from actors.templates.publish import Addresses
from actors.templates.upgrade import Plan, Step, created, is_secret_now, newest, plan
from api.http import schema_templates as t
from api.http.answers import answer
from api.http.call import Call
from api.http.handlers.deploys import ensure
from api.http.handlers.past import history_of, state_at
from api.http.handlers.templates import app_named, hold, state_of, states_of, version_of
from api.http.problems import HttpProblem, invalid, of_refusal
from api.http.queries import Upgrade
from events.failpoints import failpoint
from events.model.app import AppState, CreateApp, InstallTemplate
from events.model.base import Command, Reply, ServiceId, service_id_of
from events.model.component_commands import DeployArtifact, RemoveCron, SetCron
from events.model.component_parts import ComponentState, config_problem
from events.model.hosts import automatic_host
from events.model.template_parts import Document, Installed, TemplateComponent, Variable
from events.secrets import is_sealed

WAIT_SECONDS = 25.0
"""In one request, for what others need: less than any client waits for an answer."""
_LOOK_SECONDS = 0.1
_GENERATED_BYTES = 32


async def install_template(call: Call) -> web.Response:
    body, team = call.body_as(t.InstallTemplate), call.name("team")
    row = await version_of(call, call.name("template"), body.version or "")
    document = row.document
    await hold(call, document)
    work = _Work(call, body.app, document, {key: v.get_secret_value() for key, v in body.set.items()}, body.reason)
    app_stream = f"app/{team}.{body.app}"
    states = {each.name: await state_of(call, work.service_id(each.name)) for each in document.components}
    steps = tuple(_left(each, states[each.name]) for each in document.components)
    work.check(steps, states)
    made = await work.submit(app_stream, CreateApp(team=team, name=body.app), ".app")
    if made.refusal is not None and made.refusal.code != "conflict":
        raise of_refusal(made.refusal)
    failpoint("template.app-made")
    order = InstallTemplate(template=row.name, label=row.label, document=document)
    installed = await work.submit(app_stream, order, ".template")
    if installed.refusal is not None:
        # "is being destroyed" says it better than "no such app".
        gone = installed.refusal.code == "not_found" and made.refusal is not None
        raise of_refusal(made.refusal if gone and made.refusal else installed.refusal)
    failpoint("template.installed")
    waiting = await work.do(steps, states)
    return _answer(call, body.app, Installed(template=row.name, version=row.label, document=document), work, waiting)


def _left(component: TemplateComponent, state: ComponentState) -> Step:
    """What an installation that was cut off has left to do."""
    found = newest(state)
    if found is None or found.artifact.digest != component.artifact.digest:
        return created(component)
    return Step(component=component, crons=tuple(job for job in component.crons if job.name not in state.crons))


async def preview_upgrade(call: Call) -> web.Response:
    asked = call.query_as(Upgrade)
    await call.context.reads.wait_for(call)
    before, row_label, new, states, work = await _upgrade(call, asked.to, {}, "")
    found = plan(before.document, new, states, addresses=work.addresses, take_theirs=asked.take_theirs)
    changes = [
        t.ChangeView(
            component=c.component, attribute=c.attribute, base=c.base, now=c.now, new=c.new, action=c.action.value
        )
        for c in found.changes
    ]
    view = t.UpgradeView(
        team=call.name("team"), app=call.name("app"), template=before.template, from_=before.version, to=row_label,
        changes=changes, missing=work.missing(found.steps, states),
    )  # fmt: skip
    return answer(view)


async def upgrade_app(call: Call) -> web.Response:
    body, team = call.body_as(t.UpgradeApp), call.name("team")
    given = {key: v.get_secret_value() for key, v in body.set.items()}
    before, label, new, states, work = await _upgrade(call, body.to or "", given, body.reason)
    await hold(call, new)
    found: Plan = plan(before.document, new, states, addresses=work.addresses, take_theirs=body.take_theirs)
    work.check(found.steps, states)
    waiting = await work.do(found.steps, states)
    after = Installed(template=before.template, version=label, document=new)
    if waiting is None:
        # Last: until then a repetition compares with the same base, and finds what is left to do.
        failpoint("template.upgraded")
        stream = f"app/{team}.{call.name('app')}"
        order = InstallTemplate(template=after.template, label=label, document=new, before=before.document.digest())
        reply = await work.submit(stream, order, ".template")
        await call.context.accepted(reply, stream)
    return _answer(call, call.name("app"), after, work, waiting)


async def _upgrade(
    call: Call, to: str, given: Mapping[str, str], reason: str
) -> "tuple[Installed, str, Document, dict[str, ComponentState], _Work]":
    name = call.name("app")
    row = await app_named(call, name)
    stream = f"app/{call.name('team')}.{name}"
    state = (await state_at(call, stream, await history_of(call, stream), {})).state
    if not isinstance(state, AppState) or state.template is None:
        detail = f"app {name} was not installed from a template"
        raise HttpProblem(409, "conflict", detail, hint="rayfold template install NAME --app NEW makes one that is")
    version = await version_of(call, state.template.template, to)
    work = _Work(call, name, version.document, given, reason, before=state.template.document)
    return state.template, version.label, version.document, await states_of(call, row), work


def _answer(call: Call, app: str, after: Installed, work: "_Work", waiting: str | None) -> web.Response:
    view = t.InstalledView(
        team=call.name("team"),
        app=app,
        template=after.template,
        version=after.version,
        finished=waiting is None,
        waiting_for=waiting,
        operations=[t.StepView(component=name, operation=operation) for name, operation in work.operations],
    )
    return answer(view, 202 if work.operations else 200)


class _Work:
    """The components of one app on their way to a version."""

    def __init__(
        self,
        call: Call,
        app: str,
        document: Document,
        given: Mapping[str, str],
        reason: str,
        before: Document | None = None,
    ) -> None:
        self._call, self._app, self._document, self._given, self._reason = call, app, document, given, reason
        self._team, self._command_id = call.name("team"), call.command_id
        components = (*(before.components if before else ()), *document.components)
        hosts = {each.name: automatic_host(self._team, app, each.name) for each in components if each.http}
        self.addresses = Addresses(hosts=hosts, port=call.context.services.gateway_port())
        self.operations: list[tuple[str, str]] = []
        self._values: dict[str, str] = {}  # in clear, by component.KEY, for those that are as others

    def service_id(self, component: str) -> ServiceId:
        return service_id_of(self._team, self._app, component)

    def stream(self, component: str) -> str:
        return f"component/{self.service_id(component)}"

    async def submit(self, stream: str, command: Command, suffix: str) -> Reply:
        return await self._call.context.submit(
            self._call, stream, command, reason=self._reason, command_id=self._command_id, suffix=suffix
        )

    def missing(self, steps: tuple[Step, ...], states: Mapping[str, ComponentState]) -> list[str]:
        """The variables that nobody gave a value, in their order."""
        lacking = dict[str, None]()
        for step in steps:
            for key, variable in step.values.items():
                name = variable.same_as or f"{step.component.name}.{key}"
                source = self._source(name)
                wanted = variable if source is None else source
                if wanted.required and name not in self._given and not self._there(name, states):
                    lacking[name] = None
        return list(lacking)

    def check(self, steps: tuple[Step, ...], states: Mapping[str, ComponentState]) -> None:
        """Before anything is done. Raises HttpProblem 422."""
        if lacking := self.missing(steps, states):
            words = " ".join(f"--set {name}=…" for name in lacking[:5])
            raise HttpProblem(
                422, "values_missing", f"expected values for {', '.join(lacking)}, found none", hint=f"add {words}"
            )
        for name, text in self._given.items():
            key = name.partition(".")[2]
            if self._source(name) is None:
                raise invalid(f"the template has no variable {name[:120]!r}", hint="rayfold template show NAME@VERSION")
            if is_sealed(text):
                raise invalid(f"{name}: expected a value, found the text of a sealed one")
            if problem := config_problem(key, text):
                raise of_refusal(problem)

    def _source(self, name: str) -> Variable | None:
        component, _, key = name.partition(".")
        found = self._document.component(component)
        return found.variables.get(key) if found else None

    def _there(self, name: str, states: Mapping[str, ComponentState]) -> str:
        component, _, key = name.partition(".")
        state = states.get(component)
        if state is None:
            return ""
        # Also of a release that failed: others may have got the same value, made up then.
        last = state.releases.get(state.last_release) if state.last_release > state.born_after else None
        release = newest(state) or last
        return release.spec.config.get(key, "") if release else ""

    async def do(self, steps: tuple[Step, ...], states: Mapping[str, ComponentState]) -> str | None:
        """Every step in order; the operation that has to end before the rest, if that takes longer than one request."""
        until = time.monotonic() + WAIT_SECONDS
        running = {name: state.operation.id for name, state in states.items() if state.operation}
        for step in steps:
            for needed in self._first(step):
                if waiting := await self._ended(needed, running, until):
                    return waiting
            operation = await self._one(step, states)
            if operation:
                running[step.component.name] = operation
                self.operations.append((step.component.name, operation))
            failpoint(f"template.step-{step.component.name}")
        for step in steps:
            if not (step.crons or step.crons_removed):
                continue
            # A job runs in a release: there has to be one.
            if waiting := await self._ended(step.component.name, running, until):
                return waiting
            await self._crons(step)
        return None

    def _first(self, step: Step) -> tuple[str, ...]:
        """The components that must serve before this one is begun."""
        own, releasing = step.component, self._released_by(step)
        waits = bool(own.artifact.release_command) and releasing != own.name
        return (*own.needs, releasing) if waits else own.needs

    def _released_by(self, step: Step) -> str:
        """The component that runs the release command for all that have the same artifact."""
        digest = step.component.artifact.digest
        return next(each.name for each in self._document.components if each.artifact.digest == digest)

    async def _one(self, step: Step, states: Mapping[str, ComponentState]) -> str:
        call, component = self._call, step.component
        service_id = self.service_id(component.name)
        stream = self.stream(component.name)
        if step.create:
            command_id = f"{self._command_id}.{component.name}"
            await ensure(
                call, command_id, self._app, component.name, service_id, component.process, component.http,
                self._reason, make_app=False,
            )  # fmt: skip
        operation = ""
        if step.releases:
            state = states.get(component.name, ComponentState())
            live = newest(state)
            artifact = step.artifact or (live.artifact if live else component.artifact)
            change = step.change(await self._config(step, stream, states))
            first = step.artifact is not None and self._released_by(step) == component.name
            deploy = DeployArtifact(artifact=artifact, change=change, release_step=first)
            reply = await self.submit(stream, deploy, f".{component.name}.go")
            await call.context.accepted(reply, stream)
            operation = reply.operation
        return operation

    async def _crons(self, step: Step) -> None:
        name = step.component.name
        stream = self.stream(name)
        orders: list[tuple[str, Command]] = [(f"cron.{job.name}", SetCron(job=job)) for job in step.crons]
        orders += [(f"uncron.{job}", RemoveCron(name=job)) for job in step.crons_removed]
        for suffix, order in orders:
            await self._call.context.accepted(await self.submit(stream, order, f".{name}.{suffix}"), stream)

    async def _config(self, step: Step, stream: str, states: Mapping[str, ComponentState]) -> dict[str, str]:
        state = states.get(step.component.name, ComponentState())
        clear, sealed = dict[str, str](), dict[str, str]()
        for key, variable in step.values.items():
            name = f"{step.component.name}.{key}"
            source = self._source(variable.same_as) if variable.same_as else None
            wanted = source or variable
            value = await self._value(variable.same_as if source else name, wanted, states)
            secret = variable.secret or wanted.secret or is_secret_now(state, key)
            (sealed if secret else clear)[key] = value
        return clear | await self._call.context.services.keyring.seal_all(self._team, stream, sealed)

    async def _value(self, name: str, variable: Variable, states: Mapping[str, ComponentState]) -> str:
        """In clear. What is given wins, then what the app has already: a value that was made up is made up once."""
        if name in self._given:
            return self._given[name]
        if name in self._values:
            return self._values[name]
        if not (variable.required or variable.generated):
            return self.addresses.filled(variable.value)
        component, _, key = name.partition(".")
        there = self._there(name, states)
        if there:
            stream = self.stream(component)
            keyring = self._call.context.services.keyring
            value = (await keyring.open_all(self._team, stream, {key: there}))[key]
        else:
            value = secrets.token_urlsafe(_GENERATED_BYTES)
        self._values[name] = value
        return value

    async def _ended(self, component: str, running: dict[str, str], until: float) -> str:
        """Empty once nothing runs on it, the operation when the time is up. Raises HttpProblem 409 if it failed."""
        operation = running.get(component, "")
        if not operation:
            return ""
        while True:
            status, reason = await self._status(operation)
            if status == "succeeded":
                del running[component]
                return ""
            if status != "running":
                detail = f"{component} did not start, and the rest needs it: {reason or status}"
                hint = f"rayfold operations {operation}; correct it, and run the command again"
                raise HttpProblem(409, "dependency_failed", detail, hint=hint)
            if time.monotonic() > until:
                return operation
            await asyncio.sleep(_LOOK_SECONDS)

    async def _status(self, operation: str) -> tuple[str, str]:
        """How it stands, and why. What the read models do not know yet runs: its events are in the log."""
        try:
            found = await self._call.context.reads.operation(self._call.principal, operation)
        except HttpProblem as problem:
            if problem.status == 404:
                return "running", ""
            raise
        return found.status, found.reason


HANDLERS = {
    "installTemplate": install_template,
    "previewUpgrade": preview_upgrade,
    "upgradeApp": upgrade_app,
}
