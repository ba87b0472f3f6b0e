"""How far the runs of a dataset are, from OUTPUT alone.

A run renews its row while it works and commits pages unit by unit; nothing else is known of it here. So pages that are
being read do not count yet, objects that were not looked into yet are in no plan, and only the time when it was last
seen tells a run that was killed from one that works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rtprune.dataset.layout import Output
from rtprune.dataset.read import Statistics, statistics
from rtprune.dataset.runs import SEEN_EVERY_S, read_runs
from rtprune.dataset.schema import RunStatus

#: A run that says "running" and was not seen for so long is not counted as at work.
SILENT_AFTER_S = 4 * SEEN_EVERY_S


@dataclass(frozen=True)
class RunState:
    """One run, as it can be seen from its row and the pages it has committed.

    Attributes:
        status: what the row says; "running" for ever of a run that was killed.
        pages: pages that it has committed.
        unseen_s: seconds since it last wrote its row, where it says "running"; by two clocks, so not exact.
    """

    run_id: str
    source: str
    status: RunStatus
    started_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None
    pages: int
    unseen_s: float
    message: str | None = None

    @property
    def at_work(self) -> bool:
        """Whether it says "running" and was seen lately."""
        return self.status == "running" and self.unseen_s < SILENT_AFTER_S

    @property
    def seconds(self) -> float:
        """How long it has worked, or did until it ended or was last seen."""
        worked = ((self.ended_at or self.last_seen_at) - self.started_at).total_seconds()
        # the two ends of this are of the run's clock; ours, which may differ, adds no more than a renewal
        return worked + (min(self.unseen_s, SEEN_EVERY_S) if self.at_work else 0.0)

    @property
    def pages_per_second(self) -> float | None:
        """Mean since it began, its start-up included; ``None`` before its first pages."""
        return self.pages / self.seconds if self.pages and self.seconds > 0 else None


@dataclass(frozen=True)
class DatasetStatus:
    """A dataset and its runs at one moment; ``runs`` are in the order they began, the last one first."""

    uri: str
    looked_at: datetime
    facts: Statistics
    runs: Sequence[RunState]

    @property
    def pages_left(self) -> int:
        """Pages that are planned and not committed."""
        return max(0, self.facts.planned_pages - self.facts.page_count)

    @property
    def at_work(self) -> Sequence[RunState]:
        """Runs that say "running" and were seen lately."""
        return [run for run in self.runs if run.at_work]

    @property
    def pages_per_second(self) -> float | None:
        """Of the runs at work together; ``None`` where there is none, or none has committed a page."""
        return sum(run.pages_per_second or 0.0 for run in self.at_work) or None

    @property
    def seconds_left(self) -> float | None:
        """Until the planned pages are read if it goes on at that rate; ``None`` where that is not known."""
        rate = self.pages_per_second
        return self.pages_left / rate if rate and self.pages_left else None


def dataset_status(output: Output) -> DatasetStatus:
    """Look at a dataset and its runs. It is read once, without the texts.

    Raises as ``statistics`` and ``read_runs``.
    """
    now = datetime.now(UTC)
    rows = read_runs(output)  # first: the pages counted are then no older than the times
    facts = statistics(output)
    return DatasetStatus(output.uri, now, facts, [_state(row, facts, now) for row in rows.to_pylist()])


def _state(row: Mapping[str, Any], facts: Statistics, now: datetime) -> RunState:
    unseen = max(0.0, (now - row["last_seen_at"]).total_seconds())
    return RunState(
        run_id=row["run_id"],
        source=row["source"],
        status=row["status"],
        started_at=row["started_at"],
        last_seen_at=row["last_seen_at"],
        ended_at=row["ended_at"],
        pages=facts.pages_by_run.get(row["run_id"], 0),
        unseen_s=unseen if row["status"] == "running" else 0.0,
        message=row["message"],
    )
