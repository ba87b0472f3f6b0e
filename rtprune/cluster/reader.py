"""The worker that holds the model: takes units, fetches and renders their pages, reads them, commits the rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtprune.cluster.placement import Placement
from rtprune.cluster.rows import failed_row, read_row
from rtprune.dataset import Output, PageRow, PageSlice, WorkUnit, commit_unit
from rtprune.documents import Document, PageFault, PageImage, open_document, read_object, render_pages
from rtprune.errors import DocumentError, UsageError
from rtprune.settings import RunSettings

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Tally:
    """Pages and visual tokens counted: what a worker reports instead of the pages themselves."""

    pages: int = 0
    failed: int = 0
    tokens_before: int = 0
    tokens_after: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.pages + other.pages,
            self.failed + other.failed,
            self.tokens_before + other.tokens_before,
            self.tokens_after + other.tokens_after,
        )

    @classmethod
    def of(cls, rows: Sequence[PageRow]) -> Tally:
        """Count ``rows``."""
        return cls(
            len(rows),
            sum(row.status == "failed" for row in rows),
            sum(row.visual_tokens_before or 0 for row in rows),
            sum(row.visual_tokens_after or 0 for row in rows),
        )


def chosen(name: str, fraction: float) -> bool:
    """Whether ``name`` is among the ``fraction`` of all that are chosen: always the same ones, in any run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < fraction * 2**64


class Reader:
    """Ray actor (see ``rtprune.cluster.pool``) with a resident model; its units are work units.

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

    def ready(self) -> None:
        """Load the model. Raises ``UsageError`` when it cannot be loaded, or not where Ray has placed it."""
        import torch

        from rtprune.engine import Engine
        from rtprune.models import load_model

        torch.set_num_threads(self._placement.threads)
        device = "cuda" if self._placement.gpus else "cpu"
        model = load_model(self._settings.model, device=device)
        self._engine = Engine(model, self._settings, slots=self._settings.batch_pages)

    def pulse(self) -> Tally:
        """What is done of the unit at hand."""
        return self._tally

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        """Read the unit's pages and commit them. A lost device ends the process: only a new one has it back.

        Raises:
            StoreError: the store failed; trying again may help.
            UsageError: a document needs the password with which it was planned.
            RTPruneError: the device's memory is too small for a page.
        """
        import torch

        self._tally = Tally()
        try:
            rows = self._read_all(unit, attempt)
        except torch.AcceleratorError:
            os._exit(1)
        commit_unit(self._output, unit, rows, self._run_id)
        return self._tally

    def _read_all(self, unit: WorkUnit, attempt: int) -> list[PageRow]:
        """Rows of the unit's pages, in its order; pages are rendered as the engine has room for them."""
        rows: dict[int, PageRow] = {}
        reading: dict[int, tuple[PageSlice, PageImage]] = {}

        def record(index: int, row: PageRow) -> None:
            rows[index] = row
            self._tally += Tally.of([row])

        def pictures() -> Iterator[tuple[int, Image, str]]:
            for index, (piece, page) in enumerate(self._pages(unit)):
                if isinstance(page, PageFault):
                    record(index, self._fault_row(piece, page, attempt))
                else:
                    reading[index] = piece, page
                    yield index, page.picture, page.text_layer

        def audited(index: int) -> bool:
            piece, page = reading[index]
            return chosen(f"{piece.doc_id}:{page.page}", self._settings.audit_fraction)

        for index, result in self._engine.stream(pictures(), audited):
            piece, page = reading.pop(index)
            record(index, read_row(piece, page, result, self._label, self._mode, attempt))
        return [rows[index] for index in sorted(rows)]

    def _fault_row(self, piece: PageSlice, page: PageFault, attempt: int) -> PageRow:
        return failed_row(
            piece,
            page.page,
            page.kind,
            page.message,
            model=self._label,
            mode=self._mode,
            attempt=attempt,
            render_ms=page.render_ms,
        )

    def _pages(self, unit: WorkUnit) -> Iterator[tuple[PageSlice, PageImage | PageFault]]:
        """The unit's pages, rendered as they are asked for, so that few pictures are in memory at a time."""
        for piece in unit.slices:
            numbers = range(piece.first_page, piece.last_page + 1)
            try:
                document = self._open(piece)
            except DocumentError as error:
                yield from ((piece, PageFault(page, error.kind, str(error), 0.0)) for page in numbers)
                continue
            dpi, pixels = self._settings.dpi, self._settings.max_pixels
            for page in render_pages(document, numbers, dpi=dpi, max_pixels=pixels):
                yield piece, page

    def _open(self, piece: PageSlice) -> Document:
        data = read_object(piece.uri)
        if hashlib.sha256(data).hexdigest() != piece.doc_id:
            raise DocumentError("changed", f"{piece.uri} changed since it was planned", "run again to read it as it is")
        try:
            return open_document(piece.uri, data, password=self._settings.password)
        except DocumentError as error:
            if error.kind != "encrypted":
                raise
            raise UsageError(
                f"{piece.uri} is encrypted, and was opened with another password when it was planned",
                "run again with that --password",
            ) from error
