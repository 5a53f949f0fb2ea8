"""A bound on what is held at once, shared fairly: whoever holds much is refused first, whoever comes new finds room.

Dynamic thresholds (Choudhury and Hahne, 1998): nobody may hold more than what is still free. One team alone gets half
of all, two a third each, and there is always a share left for one more. Knows nothing of what is held.
"""


class FairGate:
    """Counts things and their bytes by team. The platform's own work, of team "", may take all there is."""

    def __init__(self, *, things: int, size: int) -> None:
        """`size` in bytes."""
        self._most_things = things
        self._most_size = size
        self._things: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self.things = 0
        self.size = 0
        self.refused = 0

    def enter(self, team: str, size: int) -> bool:
        """Take one thing in; False when it must be refused. `leave` with the same arguments afterwards."""
        free_things, free_size = self._most_things - self.things, self._most_size - self.size
        fits = free_things > 0 and (size <= free_size or not self.things)
        if fits and team:
            fair_size = self._sizes.get(team, 0) + size <= free_size or team not in self._things
            fits = self._things.get(team, 0) < free_things and fair_size
        if not fits:
            self.refused += 1
            return False
        self.things += 1
        self.size += size
        self._things[team] = self._things.get(team, 0) + 1
        self._sizes[team] = self._sizes.get(team, 0) + size
        return True

    def leave(self, team: str, size: int) -> None:
        """Give back what `enter` took."""
        self.things -= 1
        self.size -= size
        left = self._things[team] - 1
        if left:
            self._things[team] = left
            self._sizes[team] -= size
        else:
            del self._things[team], self._sizes[team]
