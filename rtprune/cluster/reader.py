"""The worker that holds the model: takes units, fetches and renders their pages, reads them, commits the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from rtprune.cluster.rows import failed_row, read_row
from rtprune.dataset import Output, PageRow, PageSlice, WorkUnit, commit_unit
from rtprune.documents import Document, PageFault, PageImage, open_document, read_object, render_pages
from rtprune.errors import DocumentError, StoreError
from rtprune.settings import RunSettings


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


class Reader:
    """Ray actor (see ``rtprune.cluster.pool``) with a resident model; its units are work units.

    Args:
        output: where rows are committed.
        run_id: the run that commits them.
        settings: with model, mode and task resolved.
        label: the model's name in the rows.
        threads: how many threads may compute where there is no GPU.
    """

    def __init__(self, output: Output, run_id: str, settings: RunSettings, label: str, threads: int) -> None:
        self._output = output
        self._run_id = run_id
        self._settings = settings
        self._label = label
        self._mode = settings.mode or ""
        self._threads = threads
        self._tally = Tally()

    def ready(self) -> None:
        """Load the model. Raises ``ModelError`` when it cannot be loaded."""
        import torch

        from rtprune.engine import Engine
        from rtprune.models import load_model

        torch.set_num_threads(self._threads)
        self._engine = Engine(load_model(self._settings.model), self._settings)

    def pulse(self) -> Tally:
        """What is done of the unit at hand."""
        return self._tally

    def work(self, unit: WorkUnit, attempt: int) -> Tally:
        """Read the unit's pages and commit them.

        Raises:
            StoreError: the store failed and trying again may help. A source object that cannot be had on the last
                attempt gives failed rows instead.
        """
        self._tally = Tally()
        rows: list[PageRow] = []
        pages = self._pages(unit, last=attempt >= self._settings.max_attempts)
        while batch := list(islice(pages, self._settings.batch_pages)):
            some = self._read(batch, attempt)
            rows.extend(some)
            self._tally += Tally.of(some)
        commit_unit(self._output, unit, rows, self._run_id)
        return self._tally

    def _read(self, batch: Sequence[tuple[PageSlice, PageImage | PageFault]], attempt: int) -> list[PageRow]:
        results = iter(self._engine.read([page.picture for _, page in batch if isinstance(page, PageImage)]))
        return [
            read_row(piece, page, next(results), self._label, self._mode, attempt)
            if isinstance(page, PageImage)
            else failed_row(
                piece,
                page.page,
                page.kind,
                page.message,
                model=self._label,
                mode=self._mode,
                attempt=attempt,
                render_ms=page.render_ms,
            )
            for piece, page in batch
        ]

    def _pages(self, unit: WorkUnit, *, last: bool) -> Iterator[tuple[PageSlice, PageImage | PageFault]]:
        """The unit's pages, rendered as they are asked for, so that only a batch of pictures is in memory."""
        for piece in unit.slices:
            numbers = range(piece.first_page, piece.last_page + 1)
            try:
                document = self._open(piece, last=last)
            except DocumentError as error:
                yield from ((piece, PageFault(page, error.kind, str(error), 0.0)) for page in numbers)
                continue
            dpi, pixels = self._settings.dpi, self._settings.max_pixels
            for page in render_pages(document, numbers, dpi=dpi, max_pixels=pixels):
                yield piece, page

    def _open(self, piece: PageSlice, *, last: bool) -> Document:
        try:
            data = read_object(piece.uri)
        except StoreError as error:
            if not last:
                raise
            raise DocumentError("unreachable", str(error)) from error
        if hashlib.sha256(data).hexdigest() != piece.doc_id:
            raise DocumentError("changed", f"{piece.uri} changed since it was planned", "run again to read it as it is")
        return open_document(piece.uri, data, password=self._settings.password)
