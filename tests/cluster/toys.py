"""Workers that need no model, for tests of what surrounds them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from rtprune.cluster.reader import Reader, Tally
from rtprune.dataset import WorkUnit


class InstantEngine:
    """Finds the same text on every page."""

    def read(self, pictures: Sequence[object]) -> list[object]:
        from rtprune.engine import PageResult

        return [PageResult("ok", text="seen", finish_reason="eos") for _ in pictures]


class InstantReader(Reader):
    """Renders and commits as the real one does."""

    def ready(self) -> None:
        self._engine = InstantEngine()  # type: ignore[assignment]


class DyingReader(InstantReader):
    """Its process dies of every unit."""

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        os._exit(1)


class HangingReader(InstantReader):
    """Never comes back."""

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        time.sleep(600)
        return Tally()


class RaisingReader(InstantReader):
    """Has a bug."""

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        raise RuntimeError("a bug")
