"""The task queue over HTTP: topics, what is in them, publishing, and a consumer's claims and words.

Thin: what a claim is worth is the queue's business.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from aiohttp import web

from api.http import schema as s
from api.http import schema_queue as v
from api.http.answers import answer
from api.http.call import Call
from api.http.problems import HttpProblem
from api.http.queries import Queued
from events.queue.errors import InvalidTask, QueueFull
from events.queue.port import TaskQueue
from events.queue.task import ClaimRef, Consumer, NewTask, TaskView, TopicStats

MOST_WAIT_SECONDS = 30.0  # of a claim, as the document has it


def _queue(call: Call) -> TaskQueue:
    return call.context.services.queue


async def list_topics(call: Call) -> web.Response:
    queue = _queue(call)
    items = [_topic(await queue.stats(topic)) for topic in await queue.topics()]
    return answer(s.Page(items=items))


async def get_topic(call: Call) -> web.Response:
    with _Refusals():
        return answer(_topic(await _queue(call).stats(call.name("topic"))))


async def list_tasks(call: Call) -> web.Response:
    asked = call.query_as(Queued)
    with _Refusals():
        found = await _queue(call).peek(call.name("topic"), limit=asked.limit, team=asked.team)
    return answer(s.Page(items=[_task(view) for view in found]))


async def list_dead(call: Call) -> web.Response:
    asked = call.query_as(Queued)
    with _Refusals():
        found = await _queue(call).dead(call.name("topic"), limit=asked.limit, team=asked.team)
    items = [
        v.DeadView(
            task=letter.task.id,
            reason=letter.reason,
            attempts=letter.attempts,
            key=letter.task.key,
            team=letter.task.team,
            dead_at=_time(letter.at),
            bytes=len(letter.task.payload),
        )
        for letter in found
    ]
    return answer(s.Page(items=items))


async def publish(call: Call) -> web.Response:
    asked = call.body_as(v.PublishTasks)
    new = [
        NewTask(
            id=task.id,
            payload=task.payload.encode(),
            key=task.key,
            team=task.team,
            priority=task.priority,
            needs=tuple(task.needs),
            delay_seconds=task.delay_seconds,
            visible_seconds=task.visible_seconds,
            max_attempts=task.max_attempts,
            back_off_seconds=task.back_off_seconds,
        )
        for task in asked.tasks
    ]
    with _Refusals():
        published = await _queue(call).publish(call.name("topic"), new)
    items = [v.PublishedView(id=one.id, duplicate=one.duplicate) for one in published]
    return answer(v.PublishedTasks(published=items))


async def claim(call: Call) -> web.Response:
    asked = call.body_as(v.ClaimTasks)
    consumer = Consumer(name=asked.consumer, offers=frozenset(asked.offers))
    with _Refusals():
        claims = await _queue(call).claim(
            call.name("topic"), consumer, most=asked.most, wait_seconds=min(asked.wait_seconds, MOST_WAIT_SECONDS)
        )
    items = [
        v.ClaimView(
            task=one.task.id,
            claim=one.ref.claim,
            attempt=one.attempt,
            payload=one.task.payload.decode(errors="replace"),
            key=one.task.key,
            team=one.task.team,
            published_at=_time(one.task.published_at),
        )
        for one in claims
    ]
    return answer(v.Claims(claims=items))


async def ack(call: Call) -> web.Response:
    refs = _refs(call, call.body_as(v.AckTasks).claims)
    with _Refusals():
        return answer(v.Accepted(accepted=await _queue(call).ack(refs)))


async def nack(call: Call) -> web.Response:
    asked = call.body_as(v.NackTasks)
    with _Refusals():
        became = await _queue(call).nack(
            _refs(call, asked.claims), reason=asked.reason, delay_seconds=asked.delay_seconds, dead=asked.dead
        )
    return answer(v.Nacked(became=[end.value for end in became]))


async def extend(call: Call) -> web.Response:
    asked = call.body_as(v.ExtendTasks)
    with _Refusals():
        return answer(v.Accepted(accepted=await _queue(call).extend(_refs(call, asked.claims), seconds=asked.seconds)))


async def retry(call: Call) -> web.Response:
    with _Refusals():
        retried = await _queue(call).retry(call.name("topic"), call.body_as(v.TaskIds).ids)
    return answer(v.Retried(retried=retried))


class _Refusals:
    """What the queue refuses, as problems."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InvalidTask):
            raise HttpProblem(422, "invalid", str(error), hint="docs/queue.md says what a task may be") from error
        if isinstance(error, QueueFull):
            raise HttpProblem(
                429, "queue_full", str(error), hint="rayfold queue stats shows who falls behind"
            ) from error


def _refs(call: Call, claims: Sequence[v.ClaimRef]) -> list[ClaimRef]:
    return [ClaimRef(topic=call.name("topic"), task=claim.task, claim=claim.claim) for claim in claims]


def _topic(stats: TopicStats) -> v.TopicView:
    return v.TopicView(
        topic=stats.topic,
        ready=stats.ready,
        delayed=stats.delayed,
        blocked=stats.blocked,
        parked=stats.parked,
        claimed=stats.claimed,
        dead=stats.dead,
        consumers=stats.consumers,
        oldest_seconds=stats.oldest_seconds,
    )


def _task(view: TaskView) -> v.TaskView:
    task = view.task
    return v.TaskView(
        task=task.id,
        status=view.status.value,
        attempts=view.attempts,
        reason=view.reason,
        consumer=view.consumer,
        key=task.key,
        team=task.team,
        priority=task.priority,
        needs=list(task.needs),
        published_at=_time(task.published_at),
        bytes=len(task.payload),
    )


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


HANDLERS = {
    "listTopics": list_topics,
    "getTopic": get_topic,
    "listTasks": list_tasks,
    "listDeadTasks": list_dead,
    "publishTasks": publish,
    "claimTasks": claim,
    "ackTasks": ack,
    "nackTasks": nack,
    "extendTasks": extend,
    "retryTasks": retry,
}
