"""Going through a history at a terminal: next, previous, to an event, to a type, to where a field changes.

Knows keys and lines; folding and wording are others' work. Loaded only when somebody sits at a terminal.
"""

from collections.abc import Callable, Sequence

from api.cli.debugtext import state_lines, step_lines
from api.cli.document import Document
from api.cli.output import styled
from api.cli.safe import visible
from events.replay.errors import NoSuchField
from events.replay.steps import Step

_HELP = (
    "n or Enter: next   p: previous   g N: to version N   /TYPE: to the next event of a type   "
    "f FIELD: to where a field changes next (f: again)   b, a: the whole state before, after   q: quit"
)

Tell = Callable[[Step], Document]
"""A step as the API words it, whole states included."""


class Stepper:
    """One walk through `walked`; `run` until the user has seen enough."""

    def __init__(
        self, walked: Sequence[Step], tell: Tell, *, ask: Callable[[str], str] = input, say: Callable[[str], None]
    ) -> None:
        self._walked = walked
        self._tell = tell
        self._ask = ask
        self._say = say
        self._here = 0
        self._field = ""

    def run(self) -> None:
        """Show a step, ask, and go where the answer says."""
        self._say(styled(_HELP, "dim"))
        self._show()
        while True:
            prompt = f"({self._version(self._here)} of {self._version(len(self._walked) - 1)}) "
            try:
                answer = self._ask(prompt).strip()
            except EOFError:
                return
            if answer in ("q", "quit"):
                return
            self._obey(answer)

    def _version(self, index: int) -> int:
        return self._walked[index].event.record.version

    def _show(self) -> None:
        for line in step_lines(self._told()):
            self._say(line)

    def _told(self) -> Document:
        return self._tell(self._walked[self._here])

    def _obey(self, answer: str) -> None:
        key, rest = (answer[:1] or "n"), answer[1:].strip()
        match key:
            case "n" | "p" if not rest:
                self._go(self._here + (1 if key == "n" else -1))
            case "g" if rest.isdecimal():
                self._go(int(rest) - self._version(0))
            case "/" if rest:
                self._seek(lambda step: rest.lower() in step.event.record.type.lower(), f"event of type {rest}")
            case "f" if rest or self._field:
                self._field = rest or self._field
                self._watch()
            case "b" | "a" if not rest:
                for line in state_lines(self._told(), "before" if key == "b" else "after"):
                    self._say(line)
            case _:
                self._say(_HELP)

    def _watch(self) -> None:
        try:
            self._seek(lambda step: step.touches(self._field), f"change of {self._field}")
        except NoSuchField as error:
            self._say(visible(str(error)))

    def _go(self, index: int) -> None:
        if not 0 <= index < len(self._walked):
            first, last = self._version(0), self._version(len(self._walked) - 1)
            self._say(f"there are versions {first} to {last} here")
            return
        self._here = index
        self._show()

    def _seek(self, wanted: Callable[[Step], bool], what: str) -> None:
        for index in range(self._here + 1, len(self._walked)):
            if wanted(self._walked[index]):
                self._go(index)
                return
        self._say(f"no further {visible(what)}")
