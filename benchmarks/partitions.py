"""Whole partitions out of recorded lives, command by command, as large as a benchmark wants them.

The lives are those of `histories`; nothing here drives an aggregate. Must not know what is measured with it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from benchmarks.histories import WHY, World, component_life
from events.log.records import EventRecord
from events.model import component_commands
from events.model.base import service_id_of
from events.model.component_parts import Spec


def partition(
    *, events: int, streams_of: int = 200, templates: int = 40, at_once: int = 64
) -> Iterator[list[EventRecord]]:
    """A whole partition of `events` events or at most one life more, command by command, from components of about
    `streams_of` events each with their builds and routes, of which `at_once` live at the same time, interleaved.

    The lives of `templates` components are driven for real; the others are theirs under service ids of their own, which
    have the same length, so that the encoded bodies stay what an encoder would write.
    """
    lives = [_commands(component_life(seed, events=streams_of)) for seed in range(templates)]
    begun = index = 0
    running: deque[Iterator[list[EventRecord]]] = deque()
    while begun < events or running:
        while begun < events and len(running) < at_once:
            life = lives[index % templates]
            running.append(_renamed(life, index % templates, index))
            begun += sum(map(len, life))
            index += 1
        commands = running.popleft()
        command = next(commands, None)
        if command is not None:
            running.append(commands)
            yield command


def idle_stream(number: int) -> str:
    """The stream of one of the `idle_components`."""
    return f"component/{service_id_of('default', 'idle', f'idle-{number}')}"


def idle_components(count: int) -> Iterator[list[EventRecord]]:
    """Components that were created and never deployed, command by command. A change of one begins and ends at once."""
    world = World(seed=0)
    for number in range(count):
        service_id = service_id_of("default", "idle", f"idle-{number}")
        create = component_commands.CreateComponent(
            service_id=service_id, team="default", app="idle", name=f"idle-{number}", process="web", spec=Spec()
        )
        world.send(idle_stream(number), create, reason=WHY)
    yield from _commands(world.records)


def _commands(life: Sequence[EventRecord]) -> list[list[EventRecord]]:
    return [list(group) for _, group in groupby(life, key=lambda record: (record.stream, record.command_id))]


def _renamed(life: Sequence[list[EventRecord]], template: int, index: int) -> Iterator[list[EventRecord]]:
    old = str(service_id_of("default", "shop", f"web-{template}"))
    new = str(service_id_of("default", "shop", f"copy-{index}"))
    for command in life:
        yield [_renamed_record(record, old, new, index) for record in command]


def _renamed_record(record: EventRecord, old: str, new: str, index: int) -> EventRecord:
    command_id = f"{record.command_id}.{index}".replace(old, new)
    return msgspec.structs.replace(
        record,
        stream=record.stream.replace(old, new),
        event_id=record.event_id.replace(old, new),
        command_id=command_id,
        correlation_id=record.correlation_id.replace(old, new),
        causation_id=command_id,
        body=msgspec.Raw(bytes(record.body).replace(old.encode(), new.encode())),
    )
