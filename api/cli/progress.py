"""Progress of something that takes longer than a second: in place on a terminal, plain lines elsewhere.

Knows lines and clocks; nothing of operations.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from api.cli.output import Output, duration, styled
from api.cli.safe import visible
from api.cli.session import on_terminal

if TYPE_CHECKING:
    from rich.status import Status

NAME_WIDTH = 12


class Progress:
    """Steps, one line each, on stderr. On a terminal the step under way is shown below them with its running time."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._status: Status | None = None
        self._since = time.monotonic()
        self._doing = ""

    def __enter__(self) -> Self:
        if on_terminal() and not self._out.quiet:
            from rich.console import Console
            from rich.status import Status

            self._status = Status("", console=Console(stderr=True, highlight=False), spinner="dots")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def doing(self, what: str) -> None:
        """What is being waited for from now on."""
        if what == self._doing:
            return
        self._doing, self._since = what, time.monotonic()
        if self._status is not None:
            from rich.markup import escape

            self._status.update(f"  {escape(visible(what))} …")

    def done(self, name: str, detail: str, seconds: float) -> None:
        """A finished step."""
        took = styled(duration(seconds).rjust(8), "dim", sys.stderr)
        self.note(f"  {visible(name).ljust(NAME_WIDTH)} {took}  {visible(detail)}".rstrip())

    def note(self, text: str) -> None:
        """A line between the steps; `text` is printed as it is."""
        if self._status is not None:
            from rich.text import Text

            self._status.console.print(Text.from_ansi(text), soft_wrap=True)
        else:
            self._out.say(text)

    def here(self, name: str, detail: str) -> None:
        """The step under way is finished; its time is what passed since `doing`."""
        self.done(name, detail, time.monotonic() - self._since)
