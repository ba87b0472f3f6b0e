"""Pages of several units through one engine: who hands them in, and who gets what comes out."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtprune.corpus.rows import failed_row, read_row
from rtprune.corpus.values import Assignment, Tally
from rtprune.dataset import PageRow, PageSlice
from rtprune.documents import PageFault, PageImage, PageRange, Renderers, Rendering
from rtprune.settings import RunSettings

if TYPE_CHECKING:
    from rtprune.engine import Engine, Page, PageResult, Skipping

FEED_PAGES = 2  # rendered pages that wait for the engine
WAIT_S = 0.1


@dataclass(frozen=True, eq=False)
class PageName:
    """A page on its way through the engine, and the assignment that it is read for."""

    reading: AssignmentReading
    index: int  # of its slice
    piece: PageSlice  # with the URI that its bytes came from
    image: PageImage

    @property
    def page(self) -> int:
        """Number of the page in its document, from 1."""
        return self.image.page


class PageFlow:
    """One engine, and the thread in which it reads whatever pages come."""

    def __init__(self, engine: Engine | Skipping, audit_fraction: float) -> None:
        self._engine = engine
        self._audit_fraction = audit_fraction
        self._feed: queue.Queue[tuple[PageName, Page]] = queue.Queue(FEED_PAGES)
        self._in_engine: dict[PageName, None] = {}
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def stop_pruning(self) -> None:
        """Keep every visual token from the next page on."""
        self._engine.stop_pruning()

    def put(self, name: PageName) -> None:
        """Prepare a page and hand it in, once there is room; nothing happens when its assignment has failed meanwhile.

        The thread that calls this does the preparing, so that the engine's own has nothing to do but read.
        """
        page = self._engine.prepare(name.image)
        while not name.reading.failed:
            try:
                self._feed.put((name, page), timeout=WAIT_S)
            except queue.Full:
                continue
            return

    def _run(self) -> None:
        while True:
            try:
                for name, result in self._engine.stream(self._pages(), self._is_audited):
                    name.reading.take(name, result)
                    del self._in_engine[name]
            except Exception as error:
                if _device_is_lost(error):  # only a new process has it back
                    os._exit(1)
                readings = {name.reading for name in self._in_engine}
                self._in_engine.clear()
                for reading in readings:
                    reading.fail(error)

    def _pages(self) -> Iterator[tuple[PageName, Page] | None]:
        """Pages as they come; ``None`` where none is there, at once while others are being read."""
        while True:
            try:
                name, page = self._feed.get(block=not self._in_engine, timeout=WAIT_S)
            except queue.Empty:
                yield None
                continue
            if not name.reading.failed:
                self._in_engine[name] = None
                yield name, page

    def _is_audited(self, name: PageName) -> bool:
        return chosen(f"{name.piece.doc_id}:{name.page}", self._audit_fraction)


class AssignmentReading:
    """The pages of one assignment, from their rendering to their rows."""

    def __init__(self, assignment: Assignment, settings: RunSettings, label: str) -> None:
        self.assignment = assignment
        self.tally = Tally()
        self._label, self._mode = label, settings.mode or ""
        self._rows: dict[tuple[int, int], PageRow] = {}
        self._total = sum(piece.page_count for piece in assignment.slices)
        self._error: Exception | None = None
        self._news = threading.Condition()

    @property
    def failed(self) -> bool:
        """Whether nobody wants its pages any more."""
        return self._error is not None

    def read(self, renderers: Renderers, flow: PageFlow, released: Callable[[], bool]) -> list[PageRow] | None:
        """Rows of the pages, in the unit's order; ``None`` where it is ``released`` before a page was ready.

        Raises:
            StoreError: the store failed; trying again may help.
            UsageError: a document needs the password with which it was planned.
            Exception: whatever the engine raised while it had one of these pages.
        """
        if not self.assignment.prune:
            flow.stop_pruning()
        rendering = renderers.rendering(
            [
                PageRange(piece.uri, piece.doc_id, piece.first_page, piece.last_page, piece.copies)
                for piece in self.assignment.slices
            ]
        )
        try:
            if not self._hand_in(rendering, flow, released):
                return None
            with self._news:
                self._news.wait_for(lambda: self.failed or len(self._rows) == self._total)
        except Exception as error:
            self.fail(error)
            raise
        finally:
            rendering.cancel()
        if self._error is not None:
            raise self._error
        return [self._rows[place] for place in sorted(self._rows)]

    def take(self, name: PageName, result: PageResult) -> None:
        """What the engine gave for a page."""
        row = read_row(name.piece, name.image, result, self._label, self._mode, self.assignment.attempt)
        self._record(name.index, row)

    def fail(self, error: Exception) -> None:
        """Give up."""
        with self._news:
            self._error = self._error or error
            self._news.notify_all()

    def _hand_in(self, rendering: Rendering, flow: PageFlow, released: Callable[[], bool]) -> bool:
        """Give every rendered page to the engine; false where it was released before the first."""
        begun = False
        for rendered in rendering:
            if self._error is not None:
                return True
            if rendered is None:
                if released() and not begun:
                    return False
                continue
            begun = True
            index, page = rendered
            piece = replace(self.assignment.slices[index], uri=rendering.source(index))
            if isinstance(page, PageFault):
                self._record(index, self._fault_row(piece, page))
            else:
                flow.put(PageName(self, index, piece, page))
        return True

    def _record(self, index: int, row: PageRow) -> None:
        with self._news:
            self._rows[index, row.page] = row
            self.tally += Tally.of([row])
            self._news.notify_all()

    def _fault_row(self, piece: PageSlice, page: PageFault) -> PageRow:
        return failed_row(
            piece,
            page.page,
            page.reason,
            page.message,
            model=self._label,
            mode=self._mode,
            attempt=self.assignment.attempt,
            render_ms=page.render_ms,
        )


def chosen(name: str, fraction: float) -> bool:
    """Whether ``name`` is among the ``fraction`` of all that are chosen: always the same ones, in any run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < fraction * 2**64


def _device_is_lost(error: Exception) -> bool:
    if "torch" not in sys.modules:  # not imported where nothing is read
        return False
    from rtprune.engine.faults import fault_of

    return fault_of(error) == "device"
