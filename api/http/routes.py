"""The table of every route: method, path, operation id, bodies and codes. The router, the client's calls and the
OpenAPI document are all made from it.

It knows nothing of handlers; `app` joins each operation id with its own.
"""

from pydantic import BaseModel

from api.http import queries as q
from api.http import schema as s
from api.http import schema_builds as b
from api.http import schema_cron as cron
from api.http import schema_debugger as d
from api.http import schema_deploy as sources
from api.http import schema_hooks as hooks
from api.http import schema_lines as lines
from api.http import schema_log as kept
from api.http import schema_platform as p
from api.http import schema_queue as queue
from api.http import schema_secrets as secret
from api.http import schema_story as story
from api.http.route import APP, CHECK_SECONDS, COMPONENT, REBUILD_SECONDS, TEAM, Route
from api.http.route import command as _command
from api.http.route import get as _get
from api.http.route import page as _page
from api.http.routes_commands import COMMANDS
from api.http.routes_credentials import CREDENTIALS
from api.http.routes_templates import TEMPLATES
from api.http.routes_uploads import UPLOADS


def _parked() -> tuple[Route, ...]:
    """What is set aside, and what a person decides about it."""
    page = s.Page[p.ParkedView]
    return (
        _get("listParked", "/v1/parked", "Streams set aside.", page, q.Nothing, "admin"),
        _get("getParked", "/v1/parked/{stream}", "Who set a stream aside, and why.", page, q.Nothing, "admin"),
        *(
            _command(ident, "POST", f"/v1/parked/{what}", summary, p.AboutParked, answer=p.Decided, reach="admin")
            for ident, what, summary in (
                ("retryParked", "retry", "Try a parked stream again."),
                ("skipParked", "skip", "Leave undone what failed of a parked stream."),
            )
        ),
    )


# More than one of these could match a path: the more particular ones come first.
DEBUGGER: tuple[Route, ...] = (
    Route(
        id="replayAll",
        method="GET",
        path="/v1/replay",
        summary="The whole platform at a time: a summary, or every state.",
        answer=d.PlatformThenView,
        query=q.ReplayAll,
        reach="token",
        codes=(404, 429, 503),
        lines=True,
    ),
    _get("replaySteps", "/v1/replay/{stream}/steps", "Event by event.", s.Page[d.StepView], q.Steps, "token"),
    _get("replay", "/v1/replay/{stream}", "A stream's state at a moment.", p.StateView, q.Replay, "token"),
    _get("diffApp", "/v1/diff", "What changed in an app between two times.", d.AppDiffView, q.DiffApp, "token"),
    _get("diff", "/v1/diff/{stream}", "What changed between two moments.", d.DiffView, q.Diff, "token"),
    _get("why", "/v1/why/{stream}/{field}", "Which events set a field.", d.WhyView, q.Why, "token"),
    Route(
        id="whatIf",
        method="POST",
        path="/v1/whatif/{stream}",
        summary="What commands would come to; nothing is done.",
        answer=d.WhatIfView,
        body=d.WhatIf,
        reach="token",
        codes=(404, 503),
    ),
    Route(
        id="check",
        method="GET",
        path="/v1/check/{stream}",
        summary="Fold it twice, under another hash seed, clock, time zone, locale and environment.",
        answer=d.VerdictView,
        reach="token",
        codes=(404, 429, 503),
        seconds=CHECK_SECONDS,
    ),
    Route(
        id="exportStream",
        method="GET",
        path="/v1/export/{stream}",
        summary="A stream's history as a file.",
        answer=None,
        query=q.ExportStream,
        reach="token",
        codes=(404, 503),
        lines=True,
    ),
    Route(
        id="export",
        method="GET",
        path="/v1/export",
        summary="The history of an app, or of everything, as a file.",
        answer=None,
        query=q.Export,
        reach="token",
        codes=(404, 503),
        lines=True,
    ),
)


_JOB = COMPONENT + "/crons/{cron}"
CRONS: tuple[Route, ...] = (
    _page("listCrons", COMPONENT + "/crons", "Its cron jobs.", cron.CronView),
    _command("setCron", "POST", COMPONENT + "/crons", "Run a command at times from now on.", cron.SetCron),
    _get("getCron", _JOB, "A cron job.", cron.CronView),
    _command("changeCron", "PATCH", _JOB, "Suspend or resume it.", cron.ChangeCron),
    _command("removeCron", "DELETE", _JOB, "Have the job no more; a run goes on to its end.", None, q.Destroy),
    _page("listCronRuns", _JOB + "/runs", "Its runs, newest first.", cron.CronRunView),
    _command("runCron", "POST", _JOB + "/runs", "Run it now.", s.Because),
)


def _word(id: str, what: str, summary: str, body: type[BaseModel], answer: type[BaseModel]) -> Route:
    path = f"/v1/queue/{{topic}}/{what}"
    return Route(
        id=id,
        method="POST",
        path=path,
        summary=summary,
        answer=answer,
        body=body,
        reach="admin",
        codes=(404, 413, 429, 503),
    )


QUEUE: tuple[Route, ...] = (
    _get("listTopics", "/v1/queue", "Topics of the task queue.", s.Page[queue.TopicView], q.Nothing, "admin"),
    _get("getTopic", "/v1/queue/{topic}", "A topic's counts.", queue.TopicView, q.Nothing, "admin"),
    _get("listTasks", "/v1/queue/{topic}/tasks", "What is queued.", s.Page[queue.TaskView], q.Queued, "admin"),
    _get("listDeadTasks", "/v1/queue/{topic}/dead", "Dead letters.", s.Page[queue.DeadView], q.Queued, "admin"),
    _word("publishTasks", "tasks", "Publish tasks.", queue.PublishTasks, queue.PublishedTasks),
    _word("claimTasks", "claims", "Claim tasks.", queue.ClaimTasks, queue.Claims),
    _word("ackTasks", "ack", "Claimed tasks are done.", queue.AckTasks, queue.Accepted),
    _word("nackTasks", "nack", "Give claimed tasks back.", queue.NackTasks, queue.Nacked),
    _word("extendTasks", "extend", "Keep claims for longer.", queue.ExtendTasks, queue.Accepted),
    _word("retryTasks", "retry", "Publish dead letters again.", queue.TaskIds, queue.Retried),
)

ROUTES: tuple[Route, ...] = (
    # --- the platform -------------------------------------------------------------------------------------------------
    _get("health", "/healthz", "The process answers.", p.HealthView, q.Nothing, "public"),
    _get("ready", "/readyz", "It can take commands and answer reads.", p.HealthView, q.Nothing, "public"),
    Route(
        id="metrics", method="GET", path="/metrics", summary="Prometheus metrics, as text.", answer=None, reach="admin"
    ),
    Route(id="openapi", method="GET", path="/openapi.json", summary="This document.", answer=None, reach="public"),
    _get("status", "/v1/status", "How the platform is.", p.StatusView, q.Nothing, "token"),
    _page("listNodes", "/v1/nodes", "Machines that run instances.", p.NodeView, reach="admin"),
    _command("changeNode", "PATCH", "/v1/nodes/{node}", "Drain a node, or take it back.", p.ChangeNode, reach="admin"),
    _command("removeNode", "DELETE", "/v1/nodes/{node}", "Give a node up for good.", None, q.RemoveNode, reach="admin"),
    _get("listPools", "/v1/pools", "Pools of actors.", s.Page[p.PoolView], q.Nothing, "admin"),
    _get("getPool", "/v1/pools/{pool}", "A pool with its actors.", p.PoolView, q.Nothing, "admin"),
    _command("scalePool", "PATCH", "/v1/pools/{pool}", "Resize a pool.", s.ScalePool, answer=p.PoolView, reach="admin"),
    *_parked(),
    _get("listProjections", "/v1/projections", "Read models.", s.Page[p.ProjectionView], q.Nothing, "admin"),
    _command(
        "rebuildProjection",
        "POST",
        "/v1/projections/{projection}/rebuild",
        "Delete a read model and fold it again from the log.",
        s.Because,
        answer=p.Rebuilt,
        reach="admin",
        seconds=REBUILD_SECONDS,
    ),
    # --- the log ------------------------------------------------------------------------------------------------------
    _get("listEvents", "/v1/events", "Events, past and live.", story.EventPage, q.Events, "token", streams=True),
    Route(
        id="verifyLog",
        method="GET",
        path="/v1/log/verify",
        summary="Walk every hash, checksum and offset of the log, partition by partition.",
        answer=None,
        query=q.VerifyLog,
        reach="admin",
        codes=(404, 429, 503),
        lines=True,
    ),
    *DEBUGGER,
    _get("logStats", "/v1/log", "What the log keeps in etcd and in the archive.", kept.LogView, q.Nothing, "admin"),
    _command(
        "archiveLog",
        "POST",
        "/v1/log/archive",
        "Archive now what is old enough.",
        kept.ArchiveLog,
        answer=kept.Archived,
        reach="admin",
        status=200,
        seconds=REBUILD_SECONDS,
    ),
    *QUEUE,
    _page("listOperations", "/v1/operations", "Operations, newest first.", s.OperationView, q.Operations),
    _get(
        "getOperation",
        "/v1/operations/{operation}",
        "An operation with its steps and children.",
        s.OperationView,
        reach="token",
    ),
    _get(
        "followOperation",
        "/v1/operations/{operation}/events",
        "Everything it caused, until it ended.",
        story.EventPage,
        q.Read,
        "token",
        streams=True,
    ),
    _get(
        "getOperationOutput",
        "/v1/operations/{operation}/output",
        "What was said of it, until it ended.",
        story.LogPage,
        q.Output,
        "token",
        streams=True,
        codes=(429,),
    ),
    _command(
        "cancelOperation", "POST", "/v1/operations/{operation}/cancel", "Ask it to stop.", s.Because, reach="token"
    ),
    _page("listAllBuilds", "/v1/builds", "Builds, the queue included, newest first.", story.BuildView, q.Builds),
    # --- teams and apps -----------------------------------------------------------------------------------------------
    _page("listTeams", "/v1/teams", "Teams the token reaches.", s.TeamView),
    _command(
        "createTeam",
        "POST",
        "/v1/teams",
        "Make a team; its token is shown once.",
        s.CreateTeam,
        answer=s.TokenIssued,
        reach="admin",
        status=201,
    ),
    _get("getTeam", TEAM, "A team.", s.TeamView),
    _command(
        "issueToken",
        "POST",
        TEAM + "/tokens",
        "Make another token; it is shown once.",
        s.IssueToken,
        answer=s.TokenIssued,
        status=201,
    ),
    _command("revokeToken", "DELETE", TEAM + "/tokens/{token}", "End a token.", None),
    _page("listSecrets", TEAM + "/secrets", "Variables that are sealed, by component.", secret.SecretView),
    _get("listLogRules", TEAM + "/log-rules", "What is kept of log lines.", s.Page[lines.LogRulesView]),
    _command("changeTeamLogRules", "PATCH", TEAM + "/log-rules", "Change that for the team.", lines.ChangeTeamLogRules),
    _get("listKeys", TEAM + "/keys", "The keys that seal them.", s.Page[secret.KeyView], q.Nothing),
    _command(
        "destroyKey",
        "POST",
        TEAM + "/keys/destroy",
        "Make what a key sealed unreadable, for good.",
        secret.DestroyKey,
    ),
    _command(
        "rotateMaster",
        "POST",
        "/v1/keys/rotate-master",
        "Wrap every team's keys with a new master key.",
        None,
        answer=secret.RotatedView,
        reach="admin",
    ),
    *UPLOADS,
    _page("listRoutes", TEAM + "/routes", "Every address of the team's components.", s.RouteView),
    _page("listApps", TEAM + "/apps", "Apps.", s.AppView),
    _command("createApp", "POST", TEAM + "/apps", "Make an app.", s.CreateApp, status=201),
    _get("getApp", APP, "An app.", s.AppView),
    _command("destroyApp", "DELETE", APP, "Stop and remove an app with all its components.", None, q.Destroy),
    *COMMANDS,
    # --- components ---------------------------------------------------------------------------------------------------
    _page("listComponents", APP + "/components", "Components.", s.ComponentView),
    _command("createComponent", "POST", APP + "/components", "Make a component.", s.CreateComponent, status=201),
    _get("getComponent", COMPONENT, "A component.", s.ComponentView),
    _command("changeComponent", "PATCH", COMPONENT, "Scale, stop, start, or change settings.", s.ChangeComponent),
    _command("destroyComponent", "DELETE", COMPONENT, "Stop and remove a component.", None, q.Destroy),
    _get("getConfig", COMPONENT + "/config", "The configuration.", s.ConfigView),
    _command("changeConfig", "PATCH", COMPONENT + "/config", "Set and unset variables.", s.ChangeConfig),
    _get("getHook", COMPONENT + "/hook", "Where its webhooks are sent, and their secret.", hooks.HookView, q.Nothing),
    Route(
        id="receiveHook",
        method="POST",
        path="/v1/hooks/{team}/{app}/{component}",
        summary="A push, told by GitHub, GitLab or Gitea; signed with the component's secret.",
        answer=hooks.HookAnswer,
        reach="public",
        status=202,
        also=(200,),
        codes=(401, 404, 409, 413, 429, 503),
    ),
    _command("deploy", "POST", COMPONENT + "/deploys", "Build a source and roll it out.", sources.Deploy),
    _page("listBuilds", COMPONENT + "/builds", "Builds, newest first.", story.BuildView),
    _get("getBuild", COMPONENT + "/builds/{build}", "A build.", story.BuildView),
    _get(
        "getBuildOutput",
        COMPONENT + "/builds/{build}/output",
        "A build's output.",
        story.LogPage,
        q.Output,
        streams=True,
        codes=(429,),
    ),
    Route(
        id="getSbom",
        method="GET",
        path=COMPONENT + "/builds/{build}/sbom",
        summary="A build's bill of materials: CycloneDX 1.6.",
        answer=None,
        query=q.Read,
        codes=(404, 503),
    ),
    _get(
        "diffBuilds", COMPONENT + "/builds/{build}/diff", "What differs from it in another.", b.BuildDiff, q.DiffBuilds
    ),
    _command("cancelBuild", "POST", COMPONENT + "/builds/{build}/cancel", "Stop a build.", s.Because),
    _page("listReleases", COMPONENT + "/releases", "Releases, newest first.", story.ReleaseView),
    _get("getRelease", COMPONENT + "/releases/{number}", "A release with its configuration.", story.ReleaseView),
    _get("getRetention", COMPONENT + "/retention", "How many releases are kept.", b.RetentionView),
    _command("changeRetention", "PATCH", COMPONENT + "/retention", "Keep fewer or more releases.", b.ChangeRetention),
    _command(
        "prune",
        "POST",
        COMPONENT + "/retention/prune",
        "Give up old releases and what they were made of.",
        b.Prune,
        answer=b.PrunedView,
        status=200,
        seconds=120.0,
    ),
    _command("rollback", "POST", COMPONENT + "/rollbacks", "Go back to an earlier release.", s.Rollback),
    _get("previewRollback", COMPONENT + "/rollback-preview", "What it would change.", story.RollbackPreview, q.Preview),
    _page("listRollouts", COMPONENT + "/rollouts", "Rollouts, newest first.", story.RolloutView),
    _page("listInstances", COMPONENT + "/instances", "Instances.", s.InstanceView),
    _command("restart", "POST", COMPONENT + "/restart", "Replace every instance by a new one.", s.Because),
    _page("listPorts", COMPONENT + "/ports", "Ports it listens on.", s.PortView),
    _get("getProbe", COMPONENT + "/probes", "How readiness is seen.", s.ProbeView),
    _command("changeProbe", "PATCH", COMPONENT + "/probes", "Change how readiness is seen.", s.ChangeProbe),
    _get("getPlacement", COMPONENT + "/placement", "What it asks of nodes.", s.PlacementView),
    _command("changePlacement", "PATCH", COMPONENT + "/placement", "Ask for other nodes.", s.ChangePlacement),
    _page("listComponentRoutes", COMPONENT + "/routes", "Its addresses.", s.RouteView),
    _command("addRoute", "POST", COMPONENT + "/routes", "Answer at one more address.", s.AddRoute),
    _command("removeRoute", "DELETE", COMPONENT + "/routes", "Answer no more at an address.", None, q.RemoveRoute),
    _command("runTask", "POST", COMPONENT + "/tasks", "Run a command once in the current release.", s.RunTask),
    *CRONS,
    *TEMPLATES,
    *CREDENTIALS,
    _get("getLogs", COMPONENT + "/logs", "Log lines.", story.LogPage, q.Logs, streams=True, codes=(429,)),
    _get("getLogStats", COMPONENT + "/logs/stats", "Lines, counted.", story.LogStatsView, q.LogTimes, codes=(429,)),
    _get("getLogRules", COMPONENT + "/log-rules", "What is kept of its lines.", lines.LogRulesView),
    _command("changeLogRules", "PATCH", COMPONENT + "/log-rules", "Change that.", lines.ChangeLogRules),
    _page("listComponentOperations", COMPONENT + "/operations", "Its operations.", s.OperationView),
    _get("listComponentEvents", COMPONENT + "/events", "Its events.", story.EventPage, q.ComponentEvents, streams=True),
)
