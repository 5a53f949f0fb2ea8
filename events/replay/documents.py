"""What the replay tools found, as JSON has it: the same words over HTTP, on the command line and from a file.

Everything here passes `mask`: no secret is shown, only its fingerprint. Must not know how any of it was found.
"""

from collections.abc import Mapping, Sequence

import msgspec

from events.log.records import StoredEvent
from events.replay.appdiff import AppDifference
from events.replay.causes import Cause
from events.replay.determinism import Verdict
from events.replay.diffing import Change, Plain, to_plain
from events.replay.history import Difference, Replayed
from events.replay.moments import show_time
from events.replay.steps import Step
from events.replay.whatif import Outcome, Refolded, Tried
from events.replay.whole import Summary, Then
from events.replay.why import AttributedChange, Setting, Why
from events.secrets import mask

Document = dict[str, Plain]


def event_document(stored: StoredEvent) -> Document:
    """An event whole. The body is the stored one, unknown types included."""
    record = stored.record
    return {
        **brief_document(stored),
        "schema_version": record.schema_version,
        "causation_id": record.causation_id,
        "traceparent": record.traceparent,
        "body": _shown(msgspec.msgpack.decode(record.body)),
    }


def brief_document(stored: StoredEvent) -> Document:
    """An event without its body: which, where, when, who and why."""
    record = stored.record
    return {
        "position": str(stored.position),
        "event_id": record.event_id,
        "stream": record.stream,
        "version": record.version,
        "type": record.type,
        "at": show_time(record.at),
        "command_id": record.command_id,
        "operation": record.correlation_id,
        "actor": record.actor,
        "reason": record.reason,
    }


def state_document(replayed: Replayed) -> Document:
    """A stream's state at a moment."""
    begun = replayed.position is not None
    return {
        "stream": replayed.stream,
        "version": replayed.version,
        "position": str(replayed.position) if begun else None,
        "at": show_time(replayed.at) if begun else None,
        "state": _shown(replayed.state),
    }


def change_document(change: Change) -> Document:
    """A difference."""
    return {
        "path": mask(change.path),
        "kind": change.kind,
        "before": mask(change.before),
        "after": mask(change.after),
    }


def attributed_document(attributed: AttributedChange) -> Document:
    """A difference and the event behind it."""
    event, origin = attributed.event, attributed.origin
    by = None if event is None or origin is None else caused_document(event, origin)
    return {**change_document(attributed.change), "by": by}


def caused_document(event: StoredEvent, origin: StoredEvent) -> Document:
    """An event without its body, and in whose name and for what reason its operation was asked for."""
    asked = origin.record
    return {**brief_document(event), "asked_by": asked.actor, "asked_reason": asked.reason}


def difference_document(difference: Difference, changes: Sequence[AttributedChange]) -> Document:
    """Two moments of a stream."""
    return {
        "stream": difference.stream,
        "from_version": difference.before.version,
        "to_version": difference.after.version,
        "changes": [attributed_document(change) for change in changes],
    }


def step_document(step: Step, causes: Sequence[Cause], *, states: bool) -> Document:
    """An event, what led to it and what it did; with `states`, the whole state before and after it."""
    around: Document = {"before": _shown(step.before), "after": _shown(step.after)} if states else {}
    return {
        "event": event_document(step.event),
        "causes": [cause_document(cause) for cause in causes],
        "changes": [change_document(change) for change in step.changes()],
        **around,
    }


def cause_document(cause: Cause) -> Document:
    """A link of a chain."""
    return {
        "kind": cause.kind,
        "id": cause.id,
        "how": cause.how,
        "actor": cause.actor,
        "reason": cause.reason,
        "event": None if cause.event is None else brief_document(cause.event),
    }


def why_document(why: Why, *, limit: int | None) -> Document:
    """A field's story, newest first, the newest `limit` of it (None: all)."""
    newest = list(reversed(why.settings))[:limit]
    return {
        "stream": why.stream,
        "field": why.field,
        "present": why.present,
        "value": mask(why.value),
        "times": len(why.settings),
        "settings": [_setting(setting) for setting in newest],
    }


def _setting(setting: Setting) -> Document:
    kind = "added" if setting.added else "removed" if setting.removed else "changed"
    return {
        "kind": kind,
        "before": mask(setting.before),
        "after": mask(setting.after),
        "by": caused_document(setting.event, setting.origin),
    }


def app_difference_document(difference: AppDifference) -> Document:
    """Two times of an app."""
    return {
        "team": difference.team,
        "app": difference.app,
        "from": show_time(difference.begin),
        "to": show_time(difference.end),
        "streams": difference.streams,
        "changes": [
            {"area": c.area, "name": c.name, "stream": c.stream, **attributed_document(c.change)}
            for c in difference.changes
        ],
    }


def tried_document(stream: str, version: int, tried: Tried) -> Document:
    """What hypothetical commands would come to from a version of a stream on."""
    outcomes = [outcome_document(outcome) for outcome in tried.outcomes]
    return {"stream": stream, "version": version, "outcomes": outcomes, "notes": list(tried.notes)}


def outcome_document(outcome: Outcome) -> Document:
    """What one of them would come to."""
    return {
        "command": outcome.command,
        "refusal": None if outcome.refusal is None else to_plain(outcome.refusal),
        "events": [{"type": w.type, "follows": w.follows, "body": _shown(w.event)} for w in outcome.events],
        "wanted": [change_document(change) for change in outcome.wanted],
        "changes": [change_document(change) for change in outcome.changes],
    }


def refolded_document(refolded: Refolded) -> Document:
    """A history under another `apply`."""
    return {
        "stream": refolded.stream,
        "events": refolded.events,
        "same": refolded.first is None,
        "first": None if refolded.first is None else event_document(refolded.first),
        "at_first": [change_document(change) for change in refolded.at_first],
        "final": [change_document(change) for change in refolded.final],
        "error": refolded.error,
    }


def verdict_document(verdict: Verdict) -> Document:
    """Two folds of a stream."""
    return {
        "stream": verdict.stream,
        "events": verdict.events,
        "same": verdict.same,
        "sha256": verdict.sha256,
        "version": verdict.version,
        "changes": [change_document(change) for change in verdict.changes],
        "error": verdict.error,
    }


def summary_document(summary: Summary, *, at: int | None) -> Document:
    """The whole platform in a line each. `at`: microseconds UTC; None: now."""
    told = to_plain(summary)
    return {"at": None if at is None else show_time(at), **(told if isinstance(told, Mapping) else {})}


def then_document(then: Then) -> Document:
    """A stream of the whole platform, as `state_document` has it."""
    return {
        "stream": then.stream,
        "version": then.version,
        "position": str(then.last.position),
        "at": show_time(then.last.record.at),
        "state": _shown(then.state),
    }


def _shown(value: object) -> Plain:
    return mask(to_plain(value))
