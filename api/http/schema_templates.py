"""Request and response bodies of application templates. Shapes and bounds only."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from api.http.schema import Body, Name, Reason, SecretValue, Sha256, View

Label = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]*$", examples=["1.0.0"])]
VariableName = Annotated[str, Field(max_length=180, pattern=r"^[^.]+\..+$", examples=["web.DATABASE_URL"])]


class PublishTemplate(Body):
    """`required`, `generated`: variables (`component.KEY`) whose value stays here, to be given or made up when it is
    installed. A secret's value never goes into a template."""

    name: Name
    version: Label
    app: Name
    description: str = Field(default="", max_length=2000)
    required: list[VariableName] = Field(default_factory=list, max_length=500)
    generated: list[VariableName] = Field(default_factory=list, max_length=500)
    reason: Reason = ""


class ImportTemplate(Body):
    """`upload`: the file, put as a source is. `name`, `version`: others than the file says."""

    upload: Sha256
    name: Name | None = None
    version: Label | None = None
    reason: Reason = ""


class InstallTemplate(Body):
    """`version` null: the one published last. `set`: values by `component.KEY`."""

    app: Name
    version: Label | None = None
    set: dict[VariableName, SecretValue] = Field(default_factory=dict)
    reason: Reason = ""


class UpgradeApp(Body):
    """`take_theirs`: where both the user and the template changed something, the template's is taken."""

    to: Label | None = None
    take_theirs: bool = False
    set: dict[VariableName, SecretValue] = Field(default_factory=dict)
    reason: Reason = ""


class VariableView(View):
    """`value` may hold `${rayfold:host:COMPONENT}` and `${rayfold:address:COMPONENT}`."""

    value: str
    secret: bool
    required: bool
    generated: bool
    same_as: str


class TemplateComponentView(View):
    name: str
    process: str
    http: bool
    artifact: str
    size_bytes: int
    scale: int
    settings: dict[str, str]
    variables: dict[str, VariableView]
    crons: list[str]
    needs: list[str]


class TemplateView(View):
    """One version. `digest` is its content's; `components` are in the order in which they are made."""

    team: str
    name: str
    version: str
    digest: str
    description: str
    source: str
    published_at: datetime
    published_by: str
    components: list[TemplateComponentView]


class TemplateAccepted(View):
    """`published` false: the same content was there already."""

    team: str
    name: str
    version: str
    digest: str
    position: str | None
    published: bool


class StepView(View):
    component: str
    operation: str


class InstalledView(View):
    """What was asked of components. `finished` false: `waiting_for` has to end before the rest is done; send the same
    request again under the same key."""

    team: str
    app: str
    template: str
    version: str
    finished: bool
    waiting_for: str | None
    operations: list[StepView]


class ChangeView(View):
    """`action`: change, keep, conflict, take, add, give, leave."""

    component: str
    attribute: str
    base: str | None
    now: str | None
    new: str | None
    action: str


class UpgradeView(View):
    """`missing`: variables that have to be given."""

    team: str
    app: str
    template: str
    from_: str = Field(serialization_alias="from")
    to: str
    changes: list[ChangeView]
    missing: list[str]
