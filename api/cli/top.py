"""`rayfold top`: a live view of the pools: sizes, partitions, rates, lag and memory of every actor.

Knows what the platform tells of its pools; how it is drawn is rich's.
"""

import time
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.output import size
from api.cli.session import Session, on_terminal, takes_session

POLL_SECONDS = 1.0
HEADINGS = ("pool", "actor", "state", "partitions", "rate /s", "behind", "memory", "cpu", "detail")
_RATES = ("commands_per_second", "events_per_second", "requests_per_second")
_BEHIND = ("events_behind", "commands_in_hand", "requests_running", "builds")


@takes_session
def top(
    session: Session,
    once: Annotated[bool, typer.Option("--once", help="Print once and end, as where nobody watches.")] = False,
) -> None:
    """Pools, partitions, rates, lag and memory, live; Ctrl-C ends it."""
    if session.out.as_json:
        session.out.json(session.client.items("/v1/pools"))
        return
    if once or not on_terminal():
        session.out.table(list(HEADINGS), _rows(session.client.items("/v1/pools"), {}, 0.0), "no pool")
        return
    _watch(session)


def _watch(session: Session) -> None:
    from rich.live import Live
    from rich.table import Table

    spent: dict[str, float] = {}
    looked = time.monotonic()
    with Live(auto_refresh=False, screen=True) as live:
        while True:
            found = session.client.items("/v1/pools")
            now = time.monotonic()
            table = Table(*HEADINGS, title=_title(found), expand=True)
            for row in _rows(found, spent, now - looked):
                table.add_row(*row)
            live.update(table, refresh=True)
            spent = {a.text("name"): a.inner("gauges").number("cpu_seconds") for p in found for a in p.items("actors")}
            looked = now
            time.sleep(POLL_SECONDS)


def _title(found: list[Document]) -> str:
    moving = sum(pool.whole("moving") for pool in found)
    told = ", ".join(f"{p.text('name')} {p.whole('running')}/{p.whole('size')}" for p in found)
    return told + (f"; {moving} partitions to move" if moving else "")


def _rows(found: list[Document], spent: dict[str, float], seconds: float) -> list[list[str]]:
    """`spent`: CPU seconds of each actor as of `seconds` ago."""
    rows = []
    for pool in found:
        for actor in pool.items("actors"):
            gauges, name = actor.inner("gauges"), actor.text("name")
            share = ""
            if name in spent and seconds > 0:
                share = f"{(gauges.number('cpu_seconds') - spent[name]) / seconds:.0%}"
            state = "draining" if actor.flag("draining") else "ready" if actor.flag("ready") else "away"
            partitions = len(actor.words("partitions"))
            rows.append(
                [pool.text("name"), name, state, str(partitions or ""), _first(gauges, _RATES), _first(gauges, _BEHIND),
                 size(gauges.number("rss_bytes")), share, actor.text("detail")[:60]]
            )  # fmt: skip
    return rows


def _first(gauges: Document, names: tuple[str, ...]) -> str:
    return next((f"{gauges.number(name):.0f}" for name in names if name in gauges), "")
