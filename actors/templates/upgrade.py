"""What an upgrade would do: base version, running app and new version compared, attribute by attribute. Pure.

Whoever changed something in the running app keeps it, unless it is said that the template's value is to win.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from actors.templates.publish import Addresses, settings_of
from events.model.build import Artifact
from events.model.component_commands import ChangeSpec
from events.model.component_parts import ComponentState, Release
from events.model.cron import CronJob
from events.model.template_parts import Document, TemplateComponent, Variable
from events.secrets import is_sealed


class Action(StrEnum):
    """change: as in the new version. keep: the user's own, which the new version leaves alone. conflict: both changed,
    the user's is kept; take: both changed, the new version's is taken. add, give: new, and with a value to be given.
    leave: cannot be changed, or is gone from the template; it stays as it is."""

    CHANGE = "change"
    KEEP = "keep"
    CONFLICT = "conflict"
    TAKE = "take"
    ADD = "add"
    GIVE = "give"
    LEAVE = "leave"


DONE = (Action.CHANGE, Action.TAKE, Action.ADD, Action.GIVE)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One attribute (`scale`, `config.KEY`, `settings.NAME`, `cron.NAME`, `artifact`, `component`). None: it is not
    there. A sealed `now` is for whoever shows it to mask."""

    component: str
    attribute: str
    base: str | None
    now: str | None
    new: str | None
    action: Action


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done to one component. `values`: variables that get the template's word; `artifact`: None where it
    stays; `create`: it is not there yet."""

    component: TemplateComponent
    create: bool = False
    artifact: Artifact | None = None
    values: dict[str, Variable] = {}
    unset: tuple[str, ...] = ()
    scale: int | None = None
    settings: dict[str, str] = {}
    crons: tuple[CronJob, ...] = ()
    crons_removed: tuple[str, ...] = ()

    @property
    def releases(self) -> bool:
        """Whether it comes to a release of its own."""
        return bool(self.create or self.artifact or self.values or self.unset or self.settings) or (
            self.scale is not None
        )

    def change(self, config: Mapping[str, str]) -> ChangeSpec:
        """The command's part about the specification, with the variables' values."""
        return ChangeSpec(config_set=dict(config), config_unset=self.unset, scale=self.scale, settings=self.settings)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`changes` for people, every attribute that differs anywhere; `steps` for whoever does it, in order."""

    changes: tuple[Change, ...]
    steps: tuple[Step, ...]


def plan(
    base: Document,
    new: Document,
    states: Mapping[str, ComponentState],
    *,
    addresses: Addresses,
    take_theirs: bool = False,
) -> Plan:
    """From `base` to `new` in an app with these components."""
    changes, steps = list[Change](), list[Step]()
    for component in new.components:
        before = base.component(component.name)
        state = states.get(component.name)
        if state is None or (before is None and not state.last_release):
            if before is not None:
                # Whoever removed it meant to.
                changes.append(_whole(component.name, "there", None, "there", Action.KEEP))
                continue
            changes.append(_whole(component.name, None, None, "there", Action.ADD))
            steps.append(created(component))
            continue
        found = _Compared(before, component, state, addresses, take_theirs)
        changes += found.changes
        steps.append(found.step)
    gone = [each.name for each in base.components if new.component(each.name) is None]
    changes += [_whole(name, "there", "there", None, Action.LEAVE) for name in gone if name in states]
    return Plan(changes=tuple(changes), steps=tuple(steps))


def _whole(name: str, base: str | None, now: str | None, new: str | None, action: Action) -> Change:
    return Change(component=name, attribute="component", base=base, now=now, new=new, action=action)


def created(component: TemplateComponent) -> Step:
    """All of it, for a component that is not there yet."""
    return Step(
        component=component,
        create=True,
        artifact=component.artifact,
        values=component.variables,
        scale=component.scale,
        settings=component.settings,
        crons=component.crons,
    )


class _Compared:
    """One component on its way; each attribute is a text or absent, so that all are compared alike."""

    def __init__(
        self,
        base: TemplateComponent | None,
        new: TemplateComponent,
        state: ComponentState,
        addresses: Addresses,
        take_theirs: bool,
    ) -> None:
        self._new, self._addresses, self._take = new, addresses, take_theirs
        self._state, self._release = state, newest(state)
        self.changes: list[Change] = []
        was, now, then = self._told(base), self._running(base), self._told(new)
        done = set[str]()
        for name in sorted({*was, *now, *then}):
            if self._compare(name, was.get(name), now.get(name), then.get(name)):
                done.add(name)
        self.step = self._step(done)

    def _told(self, component: TemplateComponent | None) -> dict[str, str]:
        if component is None:
            return {}
        told = {"artifact": component.artifact.digest, "scale": str(component.scale), "process": component.process}
        told["http"] = str(component.http).lower()
        told |= {f"settings.{name}": value for name, value in component.settings.items()}
        told |= {f"cron.{job.name}": _job(job) for job in component.crons}
        return told | {f"config.{key}": self._value(variable) for key, variable in component.variables.items()}

    def _value(self, variable: Variable) -> str:
        if variable.required or variable.generated or variable.same_as or variable.secret:
            return _GIVEN
        return self._addresses.filled(variable.value)

    def _running(self, base: TemplateComponent | None) -> dict[str, str]:
        state, release = self._state, self._release
        spec = release.spec if release else state.spec
        now = {"scale": str(spec.scale), "process": state.process, "http": str(spec.http).lower()}
        now["artifact"] = release.artifact.digest if release else ""
        now |= {f"settings.{name}": value for name, value in settings_of(state, release).items()}
        now |= {f"cron.{name}": _job(cron.job) for name, cron in state.crons.items()}
        return now | {f"config.{key}": value for key, value in spec.config.items()}

    def _compare(self, name: str, base: str | None, now: str | None, new: str | None) -> bool:
        """Note what differs; whether the new version's word is to be done."""
        if now == new or (base == new and base == now):
            return False
        if name.startswith("settings.") and new is None:
            return False  # a template that says nothing of it
        if now is not None and new == _GIVEN:
            return False  # it has a value, which is nobody's but the user's
        if name in ("process", "http"):
            action = Action.LEAVE
        elif base == new:
            action = Action.KEEP
        elif new == _GIVEN:
            action = Action.GIVE
        elif now == base or (base == _GIVEN and new is None):
            action = Action.ADD if base is None else Action.CHANGE
        else:
            action = Action.TAKE if self._take else Action.CONFLICT
        shown = {"base": _shown(base), "now": now, "new": _shown(new)}
        self.changes.append(Change(component=self._new.name, attribute=name, action=action, **shown))
        return action in DONE

    def _step(self, done: set[str]) -> Step:
        new, keys = self._new, {name.removeprefix("config.") for name in done if name.startswith("config.")}
        jobs = {name.removeprefix("cron.") for name in done if name.startswith("cron.")}
        settings = {name.removeprefix("settings.") for name in done if name.startswith("settings.")}
        return Step(
            component=new,
            artifact=new.artifact if "artifact" in done else None,
            values={key: new.variables[key] for key in sorted(keys & new.variables.keys())},
            unset=tuple(sorted(keys - new.variables.keys())),
            scale=new.scale if "scale" in done else None,
            settings={name: new.settings[name] for name in sorted(settings)},
            crons=tuple(job for job in new.crons if job.name in jobs),
            crons_removed=tuple(sorted(jobs - {job.name for job in new.crons})),
        )


_GIVEN = "\0given"  # no value of a variable: none holds a NUL


def _shown(text: str | None) -> str | None:
    return "(given when installed)" if text == _GIVEN else text


def _job(job: CronJob) -> str:
    return msgspec.json.encode(job, order="deterministic").decode()


def newest(state: ComponentState) -> Release | None:
    """The release that is being rolled out, else the one that serves."""
    coming = state.releases.get(state.operation.release) if state.operation else None
    return coming or state.releases.get(state.current)


def is_secret_now(state: ComponentState, key: str) -> bool:
    """Whether the running component has the variable as a secret: what takes its place must be one too."""
    release = newest(state)
    return is_sealed((release.spec if release else state.spec).config.get(key, ""))
