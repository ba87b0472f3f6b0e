"""The order in which a run takes units: that of the plan, from a place of its own, so that runs rarely meet."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from rtprune.dataset import Unit

WINDOW = 64  # units fetched from the plan at a time


class UnitOrder:
    """An iterator of units that goes round the plan, and can leap away from where another run is at work.

    Units that follow one another in the plan hold pages of the same documents, or of documents that lie together.

    Args:
        numbers: of the units to be read, in the plan's order.
        pages: of each of these units.
        units: gives the units of some numbers, in the plan's order.
        seed: decides where it starts and leaps to: the run's id.
    """

    def __init__(
        self,
        numbers: NDArray[np.int64],
        pages: NDArray[np.int64],
        units: Callable[[Collection[int]], list[Unit]],
        seed: str,
    ) -> None:
        self._numbers, self._pages = numbers, pages
        self._units = units
        self._dice = random.Random(seed)
        self._left = np.ones(len(numbers), np.bool_)
        self._window: deque[tuple[int, Unit]] = deque()  # with their places in ``numbers``
        self._place = self._dice.randrange(len(numbers)) if len(numbers) else 0
        self.left = len(numbers)

    def __iter__(self) -> UnitOrder:
        return self

    def __next__(self) -> Unit:
        """The next unit; each is given once."""
        if not self._window:
            self._fill()
        place, unit = self._window.popleft()
        self._left[place] = False
        self._place = place + 1
        self.left -= 1
        return unit

    def leap(self) -> None:
        """Go on at some other unit that is left."""
        self._window.clear()
        places = np.flatnonzero(self._left)
        if len(places):
            self._place = int(self._dice.choice(places))

    def keep(self, numbers: NDArray[np.int64]) -> tuple[int, int]:
        """Leave out what is left and not among ``numbers``; returns how many units and pages that were."""
        gone = self._left & ~np.isin(self._numbers, numbers)
        self._left &= ~gone
        self._window.clear()
        self.left -= int(gone.sum())
        return int(gone.sum()), int(self._pages[gone].sum())

    def _fill(self) -> None:
        """Raises ``StopIteration`` when no unit is left."""
        places = self._place + np.flatnonzero(self._left[self._place :])[:WINDOW]
        if not len(places):
            places = np.flatnonzero(self._left)[:WINDOW]
        if not len(places):
            raise StopIteration
        self._window.extend(zip(places.tolist(), self._units(self._numbers[places].tolist()), strict=True))
