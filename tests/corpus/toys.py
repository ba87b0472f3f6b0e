"""Workers that need no model, for tests of what surrounds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rtprune.corpus.values import Assignment, Receipt
from rtprune.corpus.worker import Worker
from rtprune.errors import StoreError


@dataclass(frozen=True)
class Facts:
    """What a row takes of `rtprune.pruning.PruneFacts`, which would have every worker import torch."""

    similarity: float = 0.5
    density: float = 0.2
    tokens_before: int = 73
    tokens_after: int = 50


class InstantEngine:
    """Finds the same text on every page."""

    pruning = True

    def stream(self, pages: Iterable[Any], audited: object) -> Iterator[tuple[Any, Any]]:
        for name, _ in filter(None, pages):
            yield name, self.result()

    def result(self) -> Any:
        from rtprune.engine import PageResult

        return PageResult("ok", text="seen", finish_reason="eos", facts=Facts())  # type: ignore[arg-type]

    def prepare(self, page: Any) -> Any:
        return page

    def stop_pruning(self) -> None:
        self.pruning = False


class InstantWorker(Worker):
    """Renders and commits as the real one does."""

    engine: type[InstantEngine] = InstantEngine

    def load(self) -> Any:
        return self.engine()


class SlowWorker(InstantWorker):
    """Takes a while for every unit."""

    def work(self, assignment: Assignment) -> Receipt:
        time.sleep(0.2)
        return super().work(assignment)


class DyingWorker(InstantWorker):
    """Its process dies of every unit."""

    def work(self, assignment: Assignment) -> Receipt:
        os._exit(1)


class HangingWorker(InstantWorker):
    """Never comes back."""

    def work(self, assignment: Assignment) -> Receipt:
        time.sleep(600)
        return super().work(assignment)


class LosingEngine(InstantEngine):
    """Its device is lost with every page."""

    def result(self) -> Any:
        import torch

        raise torch.AcceleratorError("device-side assert triggered")


class LosingWorker(InstantWorker):
    """Has such an engine."""

    engine = LosingEngine


class AwayWorker(InstantWorker):
    """Cannot fetch the first document."""

    def work(self, assignment: Assignment) -> Receipt:
        if "document-00" in assignment.slices[0].uri:
            raise StoreError("the store did not answer")
        return super().work(assignment)


class RaisingWorker(InstantWorker):
    """Has a bug."""

    def work(self, assignment: Assignment) -> Receipt:
        raise RuntimeError("a bug")


class PoisonedWorker(InstantWorker):
    """Its process dies of some pages: those numbered 3 of any document."""

    def work(self, assignment: Assignment) -> Receipt:
        if any(piece.first_page <= 3 <= piece.last_page for piece in assignment.slices):
            os._exit(1)
        return super().work(assignment)


class WornWorker(InstantWorker):
    """Is to be replaced after every unit; its rows tell which process made them."""

    def work(self, assignment: Assignment) -> Receipt:
        self._label = f"process {os.getpid()}"
        return replace(super().work(assignment), worn=True)


class CostlyEngine(InstantEngine):
    """Every page is audited, and keeps half of its text; its text tells whether it was pruned."""

    def result(self) -> Any:
        from rtprune.engine.fidelity import Audit

        return replace(super().result(), audit=Audit(0.5, 1), text=f"prune={self.pruning}")


class CostlyWorker(InstantWorker):
    """Has such an engine."""

    engine = CostlyEngine


class TalkingWorker(InstantWorker):
    """Warns of every unit."""

    def work(self, assignment: Assignment) -> Receipt:
        import logging

        logging.getLogger("rtprune.toys").warning("unit %s is being read", assignment.unit.unit_id)
        logging.getLogger("rtprune.toys").info("nobody wants to know")
        return super().work(assignment)
