"""The worker that holds the model: has pages rendered ahead of it, reads them, commits the rows."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rtprune.corpus.assignment import Assignment, Receipt, Tally
from rtprune.corpus.metrics import PageMetrics
from rtprune.corpus.ray_cluster import Placement
from rtprune.corpus.rows import failed_row, read_row
from rtprune.dataset import Output, PageRow, PageSlice, commit_unit, copies
from rtprune.documents import PageFault, PageImage, PageRange, Renderers, Rendering
from rtprune.errors import Reason
from rtprune.settings import NO_MODEL, RunSettings

if TYPE_CHECKING:
    from rtprune.engine import Engine, Skipping

MOVED = (Reason.UNREADABLE, Reason.CHANGED)  # the object is gone, or holds other bytes than when it was planned

#: Index of a slice, where its page was found, and the page.
Rendered = tuple[int, PageSlice, PageImage | PageFault]


def chosen(name: str, fraction: float) -> bool:
    """Whether ``name`` is among the ``fraction`` of all that are chosen: always the same ones, in any run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < fraction * 2**64


class Worker:
    """Ray actor (see ``rtprune.corpus.pool``) with a resident model; its units are `Assignment`s.

    Args:
        output: where rows are committed.
        run_id: the run that commits them.
        settings: with model, mode and task resolved.
        label: the model's name in the rows.
        placement: what the actor was given to compute with.
    """

    def __init__(self, output: Output, run_id: str, settings: RunSettings, label: str, placement: Placement) -> None:
        self._output = output
        self._run_id = run_id
        self._settings = settings
        self._label = label
        self._mode = settings.mode or ""
        self._placement = placement
        self._tally = Tally()
        self._renderers = Renderers(
            placement.renderers,
            dpi=settings.dpi,
            max_pixels=settings.max_pixels,
            password=settings.password,
            page_timeout_s=settings.page_timeout_s,
            pixels=settings.model != NO_MODEL,
        )
        self._renderings: dict[object, Rendering] = {}
        self._lock = threading.Lock()
        self._pages = 0
        self._first_bytes = 0
        self._metrics = PageMetrics()

    _engine: Engine | Skipping

    def ready(self) -> None:
        """Load the model. Raises ``UsageError`` when it cannot be loaded, or not where Ray has placed it."""
        from rtprune.engine import Skipping

        if self._settings.model == NO_MODEL:
            self._engine = Skipping()
            return
        import torch

        from rtprune.engine import Engine
        from rtprune.models import load_model

        torch.set_num_threads(self._placement.threads)
        device = "cuda" if self._placement.gpus else "cpu"
        model = load_model(self._settings.model, device=device)
        self._engine = Engine(model, self._settings, slots=self._settings.batch_pages)

    def prepare(self, assignment: Assignment) -> None:
        """Begin to render what will have to be read after the unit at hand."""
        with self._lock:
            if assignment.key not in self._renderings:
                self._renderings[assignment.key] = self._renderers.rendering(
                    [PageRange(each.uri, each.doc_id, each.first_page, each.last_page) for each in assignment.slices]
                )

    def pulse(self) -> Tally:
        """What is done of the unit at hand."""
        return self._tally

    def work(self, assignment: Assignment, attempt: int) -> Receipt:
        """Read the unit's pages and commit them. A lost device ends the process: only a new one has it back.

        Raises:
            StoreError: the store failed; trying again may help.
            UsageError: a document needs the password with which it was planned.
            RTPruneError: the device's memory is too small for a page.
        """
        self._tally = Tally()
        if not assignment.prune:
            self._engine.stop_pruning()
        rendering = self._taken(assignment)
        try:
            rows = self._read_all(assignment, rendering, attempt)
        except Exception as error:
            if _device_is_lost(error):
                os._exit(1)
            raise
        finally:
            rendering.cancel()
        alone = assignment.page is not None
        if not alone:
            commit_unit(self._output, assignment.unit, rows, self._run_id)
        self._metrics.record(rows)
        return Receipt(self._tally, tuple(rows) if alone else (), self._worn(len(rows)))

    def _taken(self, assignment: Assignment) -> Rendering:
        """The assignment's pages, on their way; what else was prepared will not come, or would have been next."""
        self.prepare(assignment)
        with self._lock:
            rendering = self._renderings.pop(assignment.key)
            for other in self._renderings.values():
                other.cancel()
            self._renderings.clear()
            return rendering

    def _read_all(self, assignment: Assignment, rendering: Rendering, attempt: int) -> list[PageRow]:
        """Rows of the pages, in the unit's order; the engine takes pages as they are rendered and it has room."""
        rows: dict[tuple[int, int], PageRow] = {}
        reading: dict[tuple[int, int], tuple[PageSlice, PageImage]] = {}

        def record(name: tuple[int, int], row: PageRow) -> None:
            rows[name] = row
            self._tally += Tally.of([row])

        def images() -> Iterator[tuple[tuple[int, int], PageImage] | None]:
            for found in self._rendered(assignment.slices, rendering):
                if found is None:
                    yield None
                    continue
                index, piece, page = found
                if isinstance(page, PageFault):
                    record((index, page.page), self._fault_row(piece, page, attempt))
                else:
                    reading[index, page.page] = piece, page
                    yield (index, page.page), page

        def audited(name: tuple[int, int]) -> bool:
            return chosen(f"{reading[name][0].doc_id}:{name[1]}", self._settings.audit_fraction)

        for name, result in self._engine.stream(images(), audited):
            record(name, read_row(*reading.pop(name), result, self._label, self._mode, attempt))
        return [rows[name] for name in sorted(rows)]

    def _rendered(self, pieces: Sequence[PageSlice], rendering: Rendering) -> Iterator[Rendered | None]:
        """Pages as they come; those whose object is gone or another by now, from an object with the same bytes."""
        astray: dict[int, list[PageFault]] = {}
        for found in rendering:
            if found is None:
                yield None
                continue
            index, page = found
            if isinstance(page, PageFault) and page.reason in MOVED:
                astray.setdefault(index, []).append(page)
            else:
                yield index, pieces[index], page
        for index, faults in astray.items():
            yield from self._rendered_elsewhere(index, pieces[index], faults)

    def _rendered_elsewhere(self, index: int, piece: PageSlice, faults: list[PageFault]) -> Iterator[Rendered | None]:
        left = {fault.page: fault for fault in faults}
        for uri in copies(self._output, piece.doc_id):
            if uri == piece.uri or not left:
                continue
            rendering = self._renderers.rendering([PageRange(uri, piece.doc_id, page, page) for page in left])
            try:
                for found in rendering:
                    if found is None:
                        yield None
                    elif not (isinstance(found[1], PageFault) and found[1].reason in MOVED):
                        del left[found[1].page]
                        yield index, replace(piece, uri=uri), found[1]
            finally:
                rendering.cancel()
        yield from ((index, piece, fault) for fault in left.values())

    def _fault_row(self, piece: PageSlice, page: PageFault, attempt: int) -> PageRow:
        return failed_row(
            piece,
            page.page,
            page.reason,
            page.message,
            model=self._label,
            mode=self._mode,
            attempt=attempt,
            render_ms=page.render_ms,
        )

    def _worn(self, pages: int) -> bool:
        """Whether this process has read so many pages, or grown so much since its first unit, that a new one is due."""
        self._pages += pages
        held = resident_bytes()
        self._first_bytes = self._first_bytes or held
        grown = held - self._first_bytes
        return self._pages >= self._settings.worker_pages or grown > self._settings.worker_growth_mib * 2**20


def _device_is_lost(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # not imported where nothing is read
    return torch is not None and isinstance(error, torch.AcceleratorError)


def resident_bytes() -> int:
    """Memory that this process occupies; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
