"""The worker that holds the model: pages of several units flow through one engine, and each unit is committed whole."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rtprune.corpus.metrics import PageMetrics
from rtprune.corpus.page_flow import AssignmentReading, PageFlow
from rtprune.corpus.ray_cluster import Placement
from rtprune.corpus.values import Assignment, Pulse, Receipt, Tally
from rtprune.corpus.worker_log import WorkerLog
from rtprune.dataset import Output, commit_unit, is_done, rows_of_run
from rtprune.documents import Renderers
from rtprune.settings import NO_MODEL, RunSettings

if TYPE_CHECKING:
    from rtprune.engine import Engine, Skipping


class Worker:
    """Ray actor (see ``rtprune.corpus.pool``) with a resident model. ``work`` runs in a thread for each assignment.

    Args:
        output: where rows are committed.
        run_id: the run that commits them.
        settings: with model, mode and task resolved.
        label: the model's name in the rows.
        placement: what the actor was given to compute with.
        log_level: the least level of what it sends to its driver.
    """

    _flow: PageFlow

    def __init__(
        self,
        output: Output,
        run_id: str,
        settings: RunSettings,
        label: str,
        placement: Placement,
        log_level: int = logging.WARNING,
    ) -> None:
        self._output = output
        self._run_id = run_id
        self._settings = settings
        self._label = label
        self._placement = placement
        self._log = WorkerLog(log_level)
        self._renderers = Renderers(
            placement.renderers,
            dpi=settings.dpi,
            max_pixels=settings.max_pixels,
            password=settings.password,
            page_timeout_s=settings.page_timeout_s,
            pixels=settings.model != NO_MODEL,
        )
        self._readings: dict[tuple[str, int | None], AssignmentReading] = {}
        self._released = threading.Event()
        self._metrics = PageMetrics()
        self._wear = Wear(settings.worker_pages, settings.worker_growth_mib)

    def ready(self) -> None:
        """Load the model. Raises ``UsageError`` when it cannot be loaded, or not where Ray has placed it."""
        self._flow = PageFlow(self.load(), self._settings.audit_fraction)

    def load(self) -> Engine | Skipping:
        """What reads pages."""
        from rtprune.engine import Skipping

        if self._settings.model == NO_MODEL:
            return Skipping()
        import torch

        from rtprune.engine import Engine
        from rtprune.models import load_model

        torch.set_num_threads(self._placement.threads)
        device = "cuda" if self._placement.gpus else "cpu"
        model = load_model(self._settings.model, device=device)
        return Engine(model, self._settings, slots=self._settings.batch_pages)

    def work(self, assignment: Assignment) -> Receipt:
        """Read the assignment's pages, and commit them if they are a whole unit that no other run has committed.

        Raises:
            StoreError: the store failed; trying again may help.
            UsageError: a document needs the password with which it was planned.
            RTPruneError: the device's memory is too small for a page.
        """
        unit, whole = assignment.unit, assignment.page is None
        if whole and is_done(self._output, unit.unit_id):
            own = rows_of_run(self._output, unit.unit_id, self._run_id)  # by a worker of this run that was lost since
            return Receipt(Tally.of_table(own), "committed" if len(own) else "elsewhere", logs=self._log.take())
        reading = self._readings[assignment.key] = AssignmentReading(assignment, self._settings, self._label)
        try:
            rows = reading.read(self._renderers, self._flow, self._released.is_set)
        finally:
            del self._readings[assignment.key]
        if rows is None:
            return Receipt(outcome="returned", logs=self._log.take())
        ours = not whole or commit_unit(self._output, unit, rows, self._run_id)
        if ours:
            self._metrics.record(rows)
        return Receipt(
            Tally.of(rows),
            "page" if not whole else "committed" if ours else "doubled",
            () if whole else tuple(rows),
            self._wear.is_worn_by(len(rows)),
            self._log.take(),
        )

    def pulse(self) -> Pulse:
        """How far the assignments at hand are, and what was logged."""
        tallies = tuple((key, reading.tally) for key, reading in list(self._readings.items()))
        return Pulse(tallies, self._log.take())

    def release(self) -> None:
        """The run stops: assignments of which no page is ready yet are given back."""
        self._released.set()


class Wear:
    """Tells when a process has read so many pages, or grown so much since its first unit, that a new one is due."""

    def __init__(self, most_pages: int, most_growth_mib: int) -> None:
        self._most_pages, self._most_growth = most_pages, most_growth_mib * 2**20
        self._pages = self._first_bytes = 0

    def is_worn_by(self, pages: int) -> bool:
        """Whether ``pages`` more were enough."""
        self._pages += pages
        held = resident_bytes()
        self._first_bytes = self._first_bytes or held
        return self._pages >= self._most_pages or held - self._first_bytes > self._most_growth


def resident_bytes() -> int:
    """Memory that this process occupies; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
