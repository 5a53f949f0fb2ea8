"""The bodies about what builds made, what of it is kept, and what it was made of. Shapes only, as in `schema`."""

from pydantic import Field

from api.http.schema import Body, Change, Reason, View
from events.model.component_retention import MOST_KEPT


class PackageChanged(View):
    """`before` null: it was added; `after` null: it was removed. Versions side by side are separated by commas."""

    package: str
    before: str | None
    after: str | None


class BuildDiff(View):
    """What differs between two builds. `size_bytes`: after less before. `packages` is null where one of the two has no
    bill of materials, and `packages_missing` says why."""

    team: str
    app: str
    component: str
    before: str
    after: str
    changes: list[Change]
    size_bytes: int
    packages: list[PackageChanged] | None
    packages_missing: str


class RetentionView(View):
    """`keep`: how many of the newest releases stay; `releases`: those that are there now."""

    team: str
    app: str
    component: str
    keep: int
    releases: list[int]


class ChangeRetention(Body):
    keep: int = Field(ge=1, le=MOST_KEPT)
    reason: Reason = ""


class Prune(Body):
    """`keep`: how many of the newest releases stay; those that something stands on stay in any case."""

    keep: int = Field(ge=1, le=MOST_KEPT)
    reason: Reason = ""


class PrunedView(View):
    """`releases`: what was pruned now; `artifacts`: digests that none of this component's releases refers to any more.

    `freed_bytes`: for an administrator, what was removed from disk at once because nothing refers to it, whosever it
    was; what is younger than some minutes follows by itself. `trouble`: why nothing could be removed yet, empty when
    nothing was in the way. `told`: for an administrator, why images stay that nothing refers to.
    """

    team: str
    app: str
    component: str
    releases: list[int]
    artifacts: list[str]
    freed_bytes: int | None
    trouble: str
    told: str = ""
