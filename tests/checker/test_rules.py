"""The checker accepts what is right and reports what is wrong: for each rule a doctored history that breaks it."""

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.history import Append, Claim, Consumed, History, Outcome
from tests.checker.rules import Rule, check
from tests.checker.stored import Batch, StoredFact

replace = msgspec.structs.replace


def sound(seed: int) -> tuple[History, list[Batch]]:
    """What a right log shows its clients: two owners in turn, lost replies, repeats, refusals, readers, followers."""
    chance = random.Random(seed)
    now, offset, number = 0, 0, 0
    versions: dict[str, int] = {}
    appends: list[Append] = []
    batches: list[Batch] = []
    consumed: list[Consumed] = []
    claims: list[Claim] = []
    log: list[str] = []
    for epoch in (1, 2, 3):
        claims.append(Claim(id=epoch, client=f"o{epoch}", partition=0, invoked=now, ended=now + 1, epoch=epoch))
        now += 2
        for _ in range(chance.randint(2, 6)):
            facts: list[StoredFact] = []
            base = offset
            for _ in range(chance.randint(1, 4)):
                number += 1
                command, stream, count = f"c{number}", f"s/{chance.randint(0, 2)}", chance.randint(1, 3)
                names = tuple(f"{command}#{n}" for n in range(count))
                for name in names:
                    versions[stream] = versions.get(stream, 0) + 1
                    facts.append(StoredFact(name, command, stream, versions[stream]))
                    log.append(name)
                first, offset = offset, offset + count
                sent = Append(
                    id=number, client="a", partition=0, command_id=command, events=names, invoked=now, ended=now + 9
                )
                answered = replace(sent, outcome=Outcome.OK, first=first, last=offset - 1)
                if chance.random() < 0.3:
                    again = replace(answered, invoked=now + 10, ended=now + 11, duplicate=True)
                    appends += [replace(sent, ended=None), again]
                else:
                    appends.append(answered)
                refused = replace(sent, command_id=f"r{number}", events=(f"r{number}#0",), outcome=Outcome.REFUSED)
                appends.append(refused)
            now += 20
            at = len(batches)
            batches.append(
                Batch(
                    partition=0,
                    base=base,
                    epoch=epoch,
                    revision=5 + at,
                    hash=b"%d" % at,
                    previous=b"%d" % (at - 1) if at else b"",
                    events=tuple(facts),
                )
            )
            start = chance.randint(0, offset)
            handed = tuple((at, log[at]) for at in range(start, offset))
            read = Consumed(
                id=0, consumer="r", partition=0, from_offset=start, invoked=now, events=handed, to_tail=True
            )
            consumed.append(read)
            now += 1
    followed = Consumed(
        id=0,
        consumer="f",
        partition=0,
        from_offset=0,
        invoked=0,
        events=tuple(enumerate(log)),
        caught_up=True,
    )
    history = History(appends=tuple(appends), claims=tuple(claims), consumed=(*consumed, followed))
    return history, batches


@given(st.integers(0, 1 << 32))
def test_a_sound_history_is_accepted(seed: int) -> None:
    assert check(*sound(seed)) == []


# -- doctored histories: what each gets is sound, what it returns breaks the rule it is listed under

Doctored = tuple[History, list[Batch]]


def _acknowledged(history: History) -> list[Append]:
    return [append for append in history.appends if append.outcome is Outcome.OK and not append.duplicate]


def _with_append(history: History, old: Append, new: Append) -> History:
    return replace(history, appends=tuple(new if append is old else append for append in history.appends))


def _with_events(batches: list[Batch], at: int, events: tuple[StoredFact, ...]) -> list[Batch]:
    return [replace(batch, events=events) if n == at else batch for n, batch in enumerate(batches)]


def lose_a_batch(history: History, batches: list[Batch]) -> Doctored:
    return history, batches[:1] + batches[2:]


def store_one_slot_twice(history: History, batches: list[Batch]) -> Doctored:
    return history, [*batches, replace(batches[1], revision=99)]


def lose_the_acknowledged_tail(history: History, batches: list[Batch]) -> Doctored:
    return history, batches[:-1]


def answer_with_another_place(history: History, batches: list[Batch]) -> Doctored:
    one = _acknowledged(history)[1]
    assert one.first is not None and one.last is not None
    return _with_append(history, one, replace(one, first=one.first + 1, last=one.last + 1)), batches


def acknowledge_as_new_what_another_sending_wrote(history: History, batches: list[Batch]) -> Doctored:
    one = _acknowledged(history)[0]
    other = replace(one, events=tuple(f"again-{name}" for name in one.events), duplicate=False)
    return replace(history, appends=(*history.appends, other, replace(one, duplicate=True))), batches


def keep_what_was_refused(history: History, batches: list[Batch]) -> Doctored:
    refused = next(append for append in history.appends if append.outcome is Outcome.REFUSED)
    extra = StoredFact(refused.events[0], refused.command_id, "s/refused", 1)
    return history, [*batches[:-1], replace(batches[-1], events=(*batches[-1].events, extra))]


def write_what_nobody_sent(history: History, batches: list[Batch]) -> Doctored:
    extra = StoredFact("x#0", "x", "s/x", 1)
    return history, [*batches[:-1], replace(batches[-1], events=(*batches[-1].events, extra))]


def write_a_command_twice(history: History, batches: list[Batch]) -> Doctored:
    first = batches[0].events[0]
    return history, [*batches[:-1], replace(batches[-1], events=(*batches[-1].events, first))]


def write_half_a_command(history: History, batches: list[Batch]) -> Doctored:
    long = next(append for append in _acknowledged(history) if len(append.events) > 1)
    cut = [replace(b, events=tuple(f for f in b.events if f.event_id != long.events[-1])) for b in batches]
    return history, cut


def answer_a_repeat_anew(history: History, batches: list[Batch]) -> Doctored:
    one = _acknowledged(history)[0]
    assert one.first is not None and one.last is not None
    again = replace(one, first=one.first + 1, last=one.last + 1, duplicate=True, invoked=10_000, ended=10_001)
    return replace(history, appends=(*history.appends, again)), batches


def answer_a_repeat_as_new(history: History, batches: list[Batch]) -> Doctored:
    one = _acknowledged(history)[0]
    return replace(history, appends=(*history.appends, replace(one, invoked=10_000, ended=10_001))), batches


def send_after_a_later_one_was_answered(history: History, batches: list[Batch]) -> Doctored:
    later = _acknowledged(history)[-1]
    early = next(append for append in history.appends if append.events[0] == batches[0].events[0].event_id)
    moved = tuple(
        replace(append, invoked=10_000, ended=None if append.ended is None else 10_001)
        if append.command_id == early.command_id
        else append
        for append in history.appends
    )
    assert later.command_id != early.command_id
    return replace(history, appends=moved), batches


def skip_a_version(history: History, batches: list[Batch]) -> Doctored:
    events = tuple(fact._replace(version=fact.version + 1) for fact in batches[-1].events)
    return history, _with_events(batches, len(batches) - 1, events)


def let_an_old_owner_write_again(history: History, batches: list[Batch]) -> Doctored:
    return history, [*batches[:-1], replace(batches[-1], epoch=1)]


def let_revisions_run_backwards(history: History, batches: list[Batch]) -> Doctored:
    return history, [*batches[:-1], replace(batches[-1], revision=1)]


def change_a_batch_afterwards(history: History, batches: list[Batch]) -> Doctored:
    return history, [replace(batches[0], hash=b"changed"), *batches[1:]]


def win_one_epoch_twice(history: History, batches: list[Batch]) -> Doctored:
    twin = replace(history.claims[1], invoked=history.claims[1].invoked)
    return replace(history, claims=(*history.claims, twin)), batches


def win_a_lower_epoch_later(history: History, batches: list[Batch]) -> Doctored:
    late = replace(history.claims[0], epoch=0, invoked=10_000, ended=10_001)
    return replace(history, claims=(*history.claims, late)), batches


def write_under_an_epoch_nobody_claimed(history: History, batches: list[Batch]) -> Doctored:
    return replace(history, claims=history.claims[:2]), batches


def commit_what_was_sent_after_a_newer_claim(history: History, batches: list[Batch]) -> Doctored:
    newer = replace(history.claims[-1], epoch=9, invoked=0, ended=1)
    return replace(history, claims=(*history.claims[:-1], newer)), batches


def _last_sequence(history: History, events: tuple[tuple[int, str], ...]) -> History:
    return replace(history, consumed=(*history.consumed[:-1], replace(history.consumed[-1], events=events)))


def hand_out_with_a_gap(history: History, batches: list[Batch]) -> Doctored:
    events = history.consumed[-1].events
    return _last_sequence(history, events[:2] + events[3:]), batches


def hand_out_twice(history: History, batches: list[Batch]) -> Doctored:
    events = history.consumed[-1].events
    return _last_sequence(history, events[:2] + events[1:]), batches


def hand_out_of_order(history: History, batches: list[Batch]) -> Doctored:
    one, two, *rest = history.consumed[-1].events
    return _last_sequence(history, (two, one, *rest)), batches


def hand_out_another_event(history: History, batches: list[Batch]) -> Doctored:
    (offset, _), *rest = history.consumed[-1].events
    return _last_sequence(history, ((offset, "x#0"), *rest)), batches


def hand_out_what_is_not_stored(history: History, batches: list[Batch]) -> Doctored:
    events = history.consumed[-1].events
    return _last_sequence(history, (*events, (len(events), "x#0"))), batches


def read_the_past(history: History, batches: list[Batch]) -> Doctored:
    stale = replace(history.consumed[-1], invoked=10_000, events=(), to_tail=True, caught_up=False)
    return replace(history, consumed=(*history.consumed, stale)), batches


def leave_a_follower_behind(history: History, batches: list[Batch]) -> Doctored:
    return _last_sequence(history, history.consumed[-1].events[:-1]), batches


DOCTORS: list[tuple[Rule, Callable[[History, list[Batch]], Doctored]]] = [
    (Rule.CONTIGUOUS, lose_a_batch),
    (Rule.CONTIGUOUS, store_one_slot_twice),
    (Rule.ACKNOWLEDGED, lose_the_acknowledged_tail),
    (Rule.ACKNOWLEDGED, answer_with_another_place),
    (Rule.ACKNOWLEDGED, acknowledge_as_new_what_another_sending_wrote),
    (Rule.REFUSED, keep_what_was_refused),
    (Rule.PROPOSED, write_what_nobody_sent),
    (Rule.ONE_SET, write_a_command_twice),
    (Rule.ONE_SET, write_half_a_command),
    (Rule.FIRST_RESULT, answer_a_repeat_anew),
    (Rule.FIRST_RESULT, answer_a_repeat_as_new),
    (Rule.REAL_TIME, send_after_a_later_one_was_answered),
    (Rule.VERSIONS, skip_a_version),
    (Rule.EPOCHS, let_an_old_owner_write_again),
    (Rule.REVISIONS, let_revisions_run_backwards),
    (Rule.CHAIN, change_a_batch_afterwards),
    (Rule.CLAIMS, win_one_epoch_twice),
    (Rule.CLAIMS, win_a_lower_epoch_later),
    (Rule.CLAIMS, write_under_an_epoch_nobody_claimed),
    (Rule.STALE, commit_what_was_sent_after_a_newer_claim),
    (Rule.SEQUENCE, hand_out_with_a_gap),
    (Rule.SEQUENCE, hand_out_twice),
    (Rule.SEQUENCE, hand_out_of_order),
    (Rule.SEQUENCE, hand_out_another_event),
    (Rule.SEQUENCE, hand_out_what_is_not_stored),
    (Rule.FRESH, read_the_past),
    (Rule.CAUGHT_UP, leave_a_follower_behind),
]


@pytest.mark.parametrize(("rule", "doctor"), DOCTORS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("seed", range(5))
def test_a_doctored_history_is_reported(
    rule: Rule, doctor: Callable[[History, list[Batch]], Doctored], seed: int
) -> None:
    doctored = doctor(*sound(seed))
    assert rule in {violation.rule for violation in check(*doctored)}


def test_every_rule_has_a_doctored_history() -> None:
    assert {rule for rule, _ in DOCTORS} == set(Rule)
