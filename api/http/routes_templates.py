"""The routes of application templates: publish, install, upgrade, and the file they travel in."""

from api.http import queries as q
from api.http import schema_templates as t
from api.http.route import APP, IMPORT_SECONDS, TEAM, Route, command, get, page

_TEMPLATE = TEAM + "/templates/{template}"
_VERSION = _TEMPLATE + "/versions/{version}"
TEMPLATES: tuple[Route, ...] = (
    page("listTemplates", TEAM + "/templates", "Versions of templates, the newest first.", t.TemplateView),
    command(
        "publishTemplate",
        "POST",
        TEAM + "/templates",
        "Publish a running app as a version of a template.",
        t.PublishTemplate,
        answer=t.TemplateAccepted,
        status=200,
    ),
    command(
        "importTemplate",
        "POST",
        TEAM + "/template-imports",
        "Publish what an uploaded file holds.",
        t.ImportTemplate,
        answer=t.TemplateAccepted,
        status=200,
        seconds=IMPORT_SECONDS,
    ),
    page("listTemplateVersions", _TEMPLATE + "/versions", "A template's versions, newest first.", t.TemplateView),
    get("getTemplate", _VERSION, "A version of a template.", t.TemplateView),
    command("removeTemplate", "DELETE", _VERSION, "Have a version no more.", None, q.Destroy),
    Route(
        id="exportTemplate",
        method="GET",
        path=_VERSION + "/file",
        summary="A version as a file that installs without a network.",
        answer=None,
        query=q.Read,
        codes=(404, 409, 503),
        file=True,
    ),
    command(
        "installTemplate",
        "POST",
        _TEMPLATE + "/installs",
        "Make an app of it; again under the same key goes on.",
        t.InstallTemplate,
        answer=t.InstalledView,
    ),
    get("previewUpgrade", APP + "/upgrade", "What an upgrade would change, by attribute.", t.UpgradeView, q.Upgrade),
    command("upgradeApp", "POST", APP + "/upgrade", "Upgrade it.", t.UpgradeApp, answer=t.InstalledView),
)
