"""What an application template is made of: components in the order in which they start, each with a pinned artifact.

Only shapes and the small pure rules of one part; who publishes and installs is none of its business.
"""

import hashlib
import re

import msgspec

from events.model.base import Refusal, name_problem
from events.model.build import Artifact
from events.model.component_parts import MAX_SCALE, Spec, config_problem
from events.model.cron import CronJob, job_problem
from events.secrets import is_sealed

MAX_COMPONENTS = 50
MAX_DOCUMENT_BYTES = 96 * 1024
"""As JSON: an event has to fit into one batch of the log with room to spare."""
_VERSION = re.compile(r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,39}\Z")


class Variable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One variable. `value` may hold marks for addresses of the app's components. A `secret` has no value here.

    `required`: to be given when it is installed; `generated`: made up then, unless it is given; `same_as`: as that
    other variable (`component.KEY`).
    """

    value: str = ""
    secret: bool = False
    required: bool = False
    generated: bool = False
    same_as: str = ""


class TemplateComponent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One component. `settings` as `Spec.with_settings` takes them; `needs`: components whose address it is told."""

    name: str
    process: str
    http: bool
    artifact: Artifact
    variables: dict[str, Variable] = {}
    scale: int = 1
    settings: dict[str, str] = {}
    crons: tuple[CronJob, ...] = ()
    needs: tuple[str, ...] = ()


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The content of one version; `components` in the order in which they are made."""

    components: tuple[TemplateComponent, ...]
    description: str = ""
    format: int = 1

    def component(self, name: str) -> TemplateComponent | None:
        """The component of that name."""
        return next((each for each in self.components if each.name == name), None)

    def encoded(self) -> bytes:
        """The one JSON text that says it."""
        return msgspec.json.encode(self, order="deterministic")

    def digest(self) -> str:
        """The sha256 of `encoded`, in hex."""
        return hashlib.sha256(self.encoded()).hexdigest()


class Installed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which version of which template an app has: the base that its user's own changes are told from."""

    template: str
    version: str
    document: Document


def version_problem(version: str) -> Refusal | None:
    """None when `version` may name a version; else what is wrong with it."""
    if _VERSION.match(version):
        return None
    message = f"expected a version of at most 40 letters, digits and . + -, found {version[:60]!r}"
    return Refusal(code="invalid", message=message, hint="for example: 1.0.0")


def document_problem(document: Document) -> Refusal | None:
    """None when `document` can be installed as it is; else what is wrong with it, whoever wrote it."""
    encoded = document.encoded()
    size = len(encoded)
    if size > MAX_DOCUMENT_BYTES:
        return _invalid(f"expected a template of at most {MAX_DOCUMENT_BYTES} bytes, artifacts aside, found {size}")
    if b"\\u0000" in encoded:
        return _invalid("expected text without NUL, found one")
    if document.format != 1:
        return _invalid(f"expected a template of format 1, found {document.format}: it is of a newer rayfold")
    if not 1 <= len(document.components) <= MAX_COMPONENTS:
        return _invalid(f"expected 1 to {MAX_COMPONENTS} components, found {len(document.components)}")
    seen: set[str] = set()
    for each in document.components:
        if problem := name_problem("a component name", each.name):
            return problem
        if each.name in seen:
            return _invalid(f"expected components of different names, found {each.name} twice")
        seen.add(each.name)
        if problem := _component_problem(document, each):
            return problem
    return None


def _component_problem(document: Document, each: TemplateComponent) -> Refusal | None:
    spec = Spec().with_settings(each.settings)
    if isinstance(spec, Refusal):
        return _invalid(f"{each.name}: {spec.message}")
    if not 0 <= each.scale <= MAX_SCALE:
        return _invalid(f"{each.name}: expected a scale from 0 to {MAX_SCALE}, found {each.scale}")
    if each.process not in each.artifact.processes:
        return _invalid(f"{each.name}: expected a process of its artifact, found {each.process[:60]!r}")
    if not re.fullmatch(r"[0-9a-f]{64}", each.artifact.digest):
        return _invalid(f"{each.name}: expected an artifact named by its sha256, found {each.artifact.digest[:80]!r}")
    for job in each.crons:
        if problem := job_problem(job):
            return _invalid(f"{each.name}: {problem.message}")
    for needed in each.needs:
        if document.component(needed) is None:
            return _invalid(f"{each.name} needs {needed[:60]!r}, which is no component of the template")
    for key, variable in each.variables.items():
        if problem := config_problem(key, variable.value):
            return _invalid(f"{each.name}.{key[:60]}: {problem.message}")
        if is_sealed(variable.value) or (variable.value and (variable.secret or variable.required)):
            return _invalid(f"{each.name}.{key}: expected no value, for it is a secret or to be given; found one")
        if variable.same_as and not _says_a_value(document, variable.same_as):
            return _invalid(f"{each.name}.{key} is as {variable.same_as[:120]!r}, which is no variable with a value")
    return None


def _says_a_value(document: Document, name: str) -> bool:
    component, _, key = name.partition(".")
    found = document.component(component)
    # One step only, so that there can be no circle.
    return found is not None and key in found.variables and not found.variables[key].same_as


def _invalid(message: str) -> Refusal:
    return Refusal(code="invalid", message=message, hint="rayfold template show NAME@VERSION")
