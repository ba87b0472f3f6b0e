"""Workers that need no model, for tests of what surrounds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

from rtprune.cluster.reader import Reader, Tally
from rtprune.dataset import PageRow, WorkUnit
from rtprune.errors import StoreError


class InstantEngine:
    """Finds the same text on every page."""

    def stream(self, pages: Iterable[tuple[int, object, str]], audited: object) -> Iterator[tuple[int, object]]:
        from rtprune.engine import PageResult
        from rtprune.pruning import PruneFacts

        facts = PruneFacts(0.5, 0.2, 0.4, 73, 50, 64, 41)
        for name, _, _ in pages:
            yield name, PageResult("ok", text="seen", finish_reason="eos", facts=facts)


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


class LosingReader(InstantReader):
    """Its device is lost with every page."""

    def _read_all(self, unit: WorkUnit, attempt: int) -> list[PageRow]:
        import torch

        raise torch.AcceleratorError("device-side assert triggered")


class AwayReader(InstantReader):
    """Cannot fetch the first document."""

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        if "document-00" in unit.slices[0].uri:
            raise StoreError("the store did not answer")
        return super().work(unit, attempt)


class RaisingReader(InstantReader):
    """Has a bug."""

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        raise RuntimeError("a bug")
