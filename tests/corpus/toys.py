"""Workers that need no model, for tests of what surrounds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rtprune.corpus.assignment import Assignment, Receipt
from rtprune.corpus.worker import Worker
from rtprune.dataset import PageRow
from rtprune.errors import StoreError


class InstantEngine:
    """Finds the same text on every page."""

    def stream(self, pages: Iterable[Any], audited: object) -> Iterator[tuple[Any, object]]:
        from rtprune.engine import PageResult
        from rtprune.pruning import PruneFacts

        facts = PruneFacts(0.5, 0.2, 0.4, 73, 50, 64, 41)
        for name, _ in filter(None, pages):
            yield name, PageResult("ok", text="seen", finish_reason="eos", facts=facts)


class InstantWorker(Worker):
    """Renders and commits as the real one does."""

    def ready(self) -> None:
        self._engine = InstantEngine()  # type: ignore[assignment]


class DyingWorker(InstantWorker):
    """Its process dies of every unit."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        os._exit(1)


class HangingWorker(InstantWorker):
    """Never comes back."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        time.sleep(600)
        return super().work(assignment, attempt)


class LosingWorker(InstantWorker):
    """Its device is lost with every page."""

    def _read_all(self, *unused: object) -> list[PageRow]:
        import torch

        raise torch.AcceleratorError("device-side assert triggered")


class AwayWorker(InstantWorker):
    """Cannot fetch the first document."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        if "document-00" in assignment.slices[0].uri:
            raise StoreError("the store did not answer")
        return super().work(assignment, attempt)


class RaisingWorker(InstantWorker):
    """Has a bug."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        raise RuntimeError("a bug")


class PoisonedWorker(InstantWorker):
    """Its process dies of some pages: those numbered 3 of any document."""

    def _read_all(self, assignment: Assignment, *rest: Any) -> list[PageRow]:
        if any(piece.first_page <= 3 <= piece.last_page for piece in assignment.slices):
            os._exit(1)
        return super()._read_all(assignment, *rest)


class WornWorker(InstantWorker):
    """Is to be replaced after every unit; its rows tell which process made them."""

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        self._label = f"process {os.getpid()}"
        return replace(super().work(assignment, attempt), worn=True)


class CostlyWorker(InstantWorker):
    """Every page is audited, and keeps half of its text; its rows tell whether they were pruned."""

    def _read_all(self, assignment: Assignment, *rest: Any) -> list[PageRow]:
        rows = super()._read_all(assignment, *rest)
        return [replace(row, audit_distance=0.5, text=f"prune={assignment.prune}") for row in rows]

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        self._engine.stop_pruning = lambda: None  # type: ignore[method-assign]
        found = super().work(assignment, attempt)
        return replace(found, tally=replace(found.tally, audited=found.tally.pages, distance=0.5 * found.tally.pages))
