"""The values that pass between the steps of a run, and between its driver and its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from rtprune.dataset import FailureRow, Output, PageRow, PageSlice, Unit, first_failures
from rtprune.settings import RunSettings

if TYPE_CHECKING:
    import pyarrow as pa

    from rtprune.dataset import Snapshot


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``done`` and ``total`` count objects while inspecting, pages while reading."""

    stage: Literal["inspect", "read"]
    done: int
    total: int
    failed: int = 0
    tokens_before: int = 0
    tokens_after: int = 0


LossReason = Literal["worker-died", "timeout", "not-ready"]
OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def never() -> bool:
    """Nobody stops the run."""
    return False


def ignore(progress: Progress) -> None:
    """Progress that no one looks at."""


@dataclass(frozen=True)
class Run:
    """What is to be done, with the model's defaults filled in: made once, handed to every step.

    Attributes:
        label: the model's name in the rows.
        config: what decides a row's content; see ``Output.open``.
        parameters: number of the model's weights.
        started_at: for the run's row; ``began`` is the same on the monotonic clock, s, which nobody sets.
    """

    run_id: str
    source: str
    output_uri: str
    settings: RunSettings
    label: str
    config: dict[str, object]
    parameters: int
    started_at: datetime
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Discovered:
    """The source held against OUTPUT.

    Attributes:
        snapshot: what the run knows of both; to be closed in the end.
        objects: number of objects that the source has.
        new: number of objects still to be looked into.
        units: number of units that are planned and not done.
    """

    snapshot: Snapshot
    objects: int
    new: int
    units: int

    @property
    def output(self) -> Output:
        """The dataset."""
        return self.snapshot.output

    @property
    def nothing_to_do(self) -> bool:
        """Whether no object is to be looked into and every planned unit is done."""
        return not self.new and not self.units


@dataclass(frozen=True)
class Planned:
    """What this run planned.

    Attributes:
        documents: objects looked into.
        documents_failed: those that could not be opened.
        stopped: whether it ended before all objects were looked into.
        not_documents: those of the failed ones that are no documents at all.
        failures: the first of the failed ones.
    """

    documents: int = 0
    documents_failed: int = 0
    stopped: bool = False
    not_documents: int = 0
    failures: tuple[FailureRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """Pages and visual tokens counted. ``distance`` is the sum over the ``audited`` pages, see ``audit_distance``.

    ``failures`` are the first of the failed pages; a difference has none.
    """

    pages: int = 0
    failed: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    audited: int = 0
    distance: float = 0.0
    failures: tuple[FailureRow, ...] = field(default=(), compare=False)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.pages + other.pages,
            self.failed + other.failed,
            self.tokens_before + other.tokens_before,
            self.tokens_after + other.tokens_after,
            self.audited + other.audited,
            self.distance + other.distance,
            first_failures(self.failures + other.failures) if other.failures else self.failures,
        )

    def __sub__(self, other: Tally) -> Tally:
        return Tally(
            self.pages - other.pages,
            self.failed - other.failed,
            self.tokens_before - other.tokens_before,
            self.tokens_after - other.tokens_after,
            self.audited - other.audited,
            self.distance - other.distance,
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
            first_failures(FailureRow.of(row) for row in rows if row.status == "failed"),
        )

    @classmethod
    def of_table(cls, table: pa.Table) -> Tally:
        """Count the rows of a table of pages."""
        rows = table.select(_COUNTED).to_pylist()
        return cls.of([PageRow("", model="", **row) for row in rows])


_COUNTED = [
    "uri",
    "page",
    "status",
    "reason",
    "message",
    "visual_tokens_before",
    "visual_tokens_after",
    "audit_distance",
]


@dataclass(frozen=True)
class Done:
    """What this run read: units that it committed, and how many it was stopped before.

    Attributes:
        elsewhere: units that another run committed meanwhile.
        doubled: units that this run read as well, and another committed first.
    """

    units: int = 0
    left: int = 0
    elsewhere: int = 0
    doubled: int = 0
    tally: Tally = field(default_factory=Tally)

    def and_unit(self, tally: Tally) -> Done:
        """This and one more unit."""
        return replace(self, units=self.units + 1, tally=self.tally + tally)


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. Counts are of this run alone.

    Attributes:
        elsewhere: units that other runs committed meanwhile.
        doubled: how many of these this run read as well.
        not_documents: objects, among those that could not be opened, that are no documents at all.
        message: why a run that has come to its end counts as failed.
        failures: the first of the documents and pages that failed.
    """

    run_id: str
    output: str
    status: Literal["finished", "failed", "stopped", "nothing to do"]
    objects: int
    documents: int
    documents_failed: int
    units: int
    units_left: int
    tally: Tally
    seconds: float
    elsewhere: int = 0
    doubled: int = 0
    not_documents: int = 0
    message: str | None = None
    failures: tuple[FailureRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A unit to be read and committed; or one page of it, whose row is sent back uncommitted.

    Attributes:
        page: index of that page in ``unit.pages()``; ``None`` for the whole unit.
        attempt: how often it is tried, from 1.
        prune: false once pruning has cost the run more than it may.
    """

    unit: Unit
    page: int | None = None
    attempt: int = 1
    prune: bool = True

    @property
    def key(self) -> tuple[str, int | None]:
        """The unit and the page: no other assignment of the run has them."""
        return self.unit.unit_id, self.page

    @property
    def slices(self) -> tuple[PageSlice, ...]:
        """Pages to be read."""
        return self.unit.slices if self.page is None else (self.unit.page_slice(self.page),)


#: A log record of a worker: name of the logger, level, message.
LogRecord = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an assignment.

    Attributes:
        tally: its pages, counted.
        outcome: "committed" by this worker, or before by one of this run that was lost; "doubled": read, but another
            run committed it first; "elsewhere": another run had committed it, and nothing was done; "returned": the run
            stops, and nothing was done; "page": ``rows`` has the row of a page that was read alone.
        worn: whether the worker has served long enough, or grown too large, and should be replaced.
        logs: what the worker logged since it last sent any.
    """

    tally: Tally = Tally()
    outcome: Literal["committed", "doubled", "elsewhere", "returned", "page"] = "committed"
    rows: tuple[PageRow, ...] = ()
    worn: bool = False
    logs: tuple[LogRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Pulse:
    """How a worker is getting on: pages done of what it has at hand, and what it logged since it last sent any."""

    tallies: tuple[tuple[tuple[str, int | None], Tally], ...] = ()
    logs: tuple[LogRecord, ...] = ()
