"""What the components of an app come to as a template. Pure: states come in, a document goes out.

An address of another component in a variable becomes a mark, which is a dependency. No value of a secret gets in.
"""

from collections.abc import Iterable, Mapping

import msgspec

from events.model.component_parts import SETTINGS, ComponentState, Release
from events.model.template_parts import Document, TemplateComponent, Variable
from events.secrets.sealed import Sealed

_HOST = "${rayfold:host:%s}"
_ADDRESS = "${rayfold:address:%s}"
"""The host, and the host with the gateway's port where that stood beside it."""


class TemplateError(Exception):
    """The app cannot become a template, or not as asked; the message says what was expected, found and what to do."""


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the components of one app answer: host names by component, and the gateway's port."""

    hosts: Mapping[str, str]
    port: int

    def marked(self, text: str, own: str) -> tuple[str, set[str]]:
        """`text` with marks for addresses, and the components it names. Raises TemplateError."""
        if "${rayfold:" in text:
            raise TemplateError("expected a value without ${rayfold:, which marks addresses in templates; found one")
        found = set[str]()
        # The longest first: `db.shop.localhost` holds `shop.localhost`.
        for name, host in sorted(self.hosts.items(), key=lambda item: -len(item[1])):
            if host and host in text:
                text = text.replace(f"{host}:{self.port}", _ADDRESS % name).replace(host, _HOST % name)
                found |= {name} - {own}
        return text, found

    def filled(self, text: str) -> str:
        """`text` with every mark replaced by what it stands for here."""
        if "${rayfold:" not in text:
            return text
        for name, host in self.hosts.items():
            text = text.replace(_ADDRESS % name, f"{host}:{self.port}").replace(_HOST % name, host)
        return text


def document_of(
    states: Iterable[ComponentState],
    *,
    addresses: Addresses,
    description: str = "",
    required: Iterable[str] = (),
    generated: Iterable[str] = (),
) -> Document:
    """The template of an app that runs. `required`, `generated`: variables (`component.KEY`) whose value is not to be
    in it, but given or made up when it is installed. Raises TemplateError."""
    asked = dict.fromkeys(required, "required") | dict.fromkeys(generated, "generated")
    ordered = sorted(states, key=lambda state: state.name)
    if not ordered:
        raise TemplateError("expected an app with components, found none: deploy something to it first")
    first = dict[str, str]()  # by fingerprint: a secret that several components share is given once
    made = [_component(state, _live(state), addresses, asked, first) for state in ordered]
    if asked:
        raise TemplateError(f"expected variables that the app has, as component.KEY; found {sorted(asked)[0][:120]!r}")
    return Document(components=in_order(made), description=description)


def _live(state: ComponentState) -> Release:
    release = state.releases.get(state.current)
    if release is None:
        raise TemplateError(f"expected components that run, found {state.name}, of which nothing is released yet")
    return release


def _component(
    state: ComponentState, release: Release, addresses: Addresses, asked: dict[str, str], first: dict[str, str]
) -> TemplateComponent:
    spec, needs, variables = release.spec, set[str](), dict[str, Variable]()
    for key, value in sorted(spec.config.items()):
        name = f"{state.name}.{key}"
        how, sealed = asked.pop(name, ""), Sealed.parse(value)
        shared = first.setdefault(sealed.key_id + sealed.fingerprint, name) if sealed else name
        if shared != name and not how:
            variables[key] = Variable(secret=True, same_as=shared)
        elif how or sealed:
            made_up = how == "generated"
            variables[key] = Variable(secret=made_up or sealed is not None, generated=made_up, required=not made_up)
        else:
            try:
                text, named = addresses.marked(value, state.name)
            except TemplateError as error:
                raise TemplateError(f"{name}: {error}") from None
            needs |= named
            variables[key] = Variable(value=text)
    return TemplateComponent(
        name=state.name,
        process=state.process,
        http=spec.http,
        artifact=release.artifact,
        variables=variables,
        scale=spec.scale,
        settings=settings_of(state, release),
        crons=tuple(cron.job for _, cron in sorted(state.crons.items())),
        needs=tuple(sorted(needs)),
    )


def settings_of(state: ComponentState, release: Release | None) -> dict[str, str]:
    """The settings by name, as `Spec.with_settings` takes them."""
    spec = release.spec if release else state.spec
    return {"probe_path": spec.probe_path} | {name: str(getattr(spec, name)) for name in SETTINGS}


def in_order(components: Iterable[TemplateComponent]) -> tuple[TemplateComponent, ...]:
    """Each after what it needs, else by name. In a circle somebody has to be first: the first by name."""
    left, done = sorted(components, key=lambda each: each.name), list[TemplateComponent]()
    while left:
        made = {each.name for each in done}
        ready = next((each for each in left if not set(each.needs) - made), left[0])
        done.append(ready)
        left.remove(ready)
    return tuple(done)
