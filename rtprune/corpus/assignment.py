"""What a reader is sent, and what it sends back instead of pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rtprune.dataset import PageRow, PageSlice, Unit


@dataclass(frozen=True, slots=True)
class Assignment:
    """A unit to be read and committed; or one page of it, which is sent back uncommitted.

    Attributes:
        unit: the unit.
        page: index of that page in ``unit.pages()``; ``None`` for the whole unit.
        prune: false once pruning has cost the run more than it may.
    """

    unit: Unit
    page: int | None = None
    prune: bool = True

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells it from others."""
        return self.unit.unit_id, self.page

    @property
    def slices(self) -> tuple[PageSlice, ...]:
        """Pages to be read."""
        return self.unit.slices if self.page is None else (self.unit.page_slice(self.page),)


@dataclass(frozen=True, slots=True)
class Tally:
    """Pages and visual tokens counted. ``distance`` is the sum over the ``audited`` pages, see ``audit_distance``."""

    pages: int = 0
    failed: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    audited: int = 0
    distance: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.pages + other.pages,
            self.failed + other.failed,
            self.tokens_before + other.tokens_before,
            self.tokens_after + other.tokens_after,
            self.audited + other.audited,
            self.distance + other.distance,
        )

    @classmethod
    def of(cls, rows: Sequence[PageRow]) -> Tally:
        """Count ``rows``."""
        distances = [row.audit_distance for row in rows if row.audit_distance is not None]
        return cls(
            len(rows),
            sum(row.status == "failed" for row in rows),
            sum(row.visual_tokens_before or 0 for row in rows),
            sum(row.visual_tokens_after or 0 for row in rows),
            len(distances),
            sum(distances),
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an assignment.

    Attributes:
        tally: its pages, counted.
        rows: the row of a page that was read alone; a whole unit's rows are in the dataset.
        worn: whether the worker has served long enough, or grown too large, and should be replaced.
    """

    tally: Tally
    rows: tuple[PageRow, ...] = ()
    worn: bool = False
