"""What a run still has to read: handed out unit by unit, shared with other runs, page by page where a unit kills."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rtprune.corpus.assignment import Assignment
from rtprune.dataset import Claims, Output, Pending, Unit, is_committed

OTHERS_EVERY_S = 5.0  # how often units that other runs are at are looked at


class Worklist:
    """Units on their way from the plan to workers.

    Args:
        units: what is not committed yet.
        claims: keeps other runs from doing the same.
        clock: monotonic seconds.
    """

    def __init__(
        self, output: Output, units: Iterable[Unit], claims: Claims, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._output = output
        self._units = iter(units)
        self._claims = claims
        self._clock = clock
        self._pages: deque[Assignment] = deque()
        self._elsewhere: deque[Unit] = deque()
        self._looked = 0.0
        self._out = 0
        self.prune = True  # what is handed out from now on
        self.probe = False  # whether the next one should be a whole unit, to see whether any can be read
        self.all_out = False  # whether the last unit was handed out, or is elsewhere
        self.elsewhere = Pending(0, 0)  # committed meanwhile by other runs

    def assignments(self, on_rest: Callable[[], bool]) -> Iterator[Assignment | None]:
        """What is to be done next; ``None`` where that depends on others, or on what is being done.

        Args:
            on_rest: asked when nothing is left and nothing is out; whether it has added pages.
        """
        while True:
            if (found := self._next()) is not None:
                self._out += 1
                yield found
            elif self._out or self._elsewhere:
                yield None
            elif not on_rest():
                return

    def settle(self) -> None:
        """An assignment has come back."""
        self._out -= 1

    def isolate(self, unit: Unit) -> None:
        """Have a unit read page by page."""
        self._pages.extend(Assignment(unit, page) for page in range(unit.page_count))

    def drop(self, unit: Unit) -> list[Assignment]:
        """Take back the pages of ``unit`` that were not handed out yet."""
        dropped = [each for each in self._pages if each.unit == unit]
        self._pages = deque(each for each in self._pages if each.unit != unit)
        return dropped

    def _next(self) -> Assignment | None:
        if self._pages and (self.all_out or not self.probe):
            return replace(self._pages.popleft(), prune=self.prune)
        self.probe = False
        for unit in self._units:
            if self._claims.take(unit.unit_id):
                return Assignment(unit, prune=self.prune)
            self._elsewhere.append(unit)
        self.all_out = True
        return self._taken_over()

    def _taken_over(self) -> Assignment | None:
        """The first unit whose owner has died; those that are committed by now are no longer waited for."""
        if self._clock() - self._looked < OTHERS_EVERY_S:
            return None
        for _ in range(len(self._elsewhere)):
            unit = self._elsewhere.popleft()
            if is_committed(self._output, unit.unit_id):
                done = self.elsewhere
                self.elsewhere = Pending(done.units + 1, done.pages + unit.page_count)
            elif self._claims.take(unit.unit_id):
                return Assignment(unit, prune=self.prune)
            else:
                self._elsewhere.append(unit)
        self._looked = self._clock()
        return None
