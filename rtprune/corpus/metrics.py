"""What a run exports while it is at work, through Ray's own Prometheus endpoint on every node (``MetricsExportPort``).

Ray adds the node and the process (``WorkerId``) to every series and ``ray_`` to its name, ``_total`` to a counter's.
Where nobody collects, or Ray is not even started, recording costs a microsecond and does nothing else. Tags are few and
fixed: never a URI, a page's text or a password.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rtprune.corpus.values import LossReason
from rtprune.dataset import PageRow
from rtprune.errors import Reason


@dataclass(frozen=True)
class Series:
    """One metric as it is declared to Ray."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()


PAGES = Series("rtprune_pages", "counter", "Pages read or failed.", ("status", "model"))
FAILURES = Series("rtprune_page_failures", "counter", "Pages that could not be read.", ("reason",))
TOKENS_BEFORE = Series("rtprune_visual_tokens_before", "counter", "Visual tokens before pruning.", ("model",))
TOKENS_AFTER = Series("rtprune_visual_tokens_after", "counter", "Visual tokens after pruning.", ("model",))
OUTPUT_TOKENS = Series("rtprune_output_tokens", "counter", "Tokens that the decoder gave.", ("model",))
BUSY_SECONDS = Series("rtprune_busy_seconds", "counter", "Seconds in encode, prune, prefill and decode.", ("model",))
PAGE_SECONDS = Series("rtprune_page_seconds", "histogram", "Seconds of the model per page that was read.", ("model",))
UNITS = Series("rtprune_units_committed", "counter", "Units of pages committed.")
WORKERS_LOST = Series("rtprune_workers_lost", "counter", "Workers that died or were killed.", ("reason",))
QUEUE = Series("rtprune_queue", "gauge", "Units that are not committed yet.", ("state",))

#: Every series that this package exports.
SERIES = (
    PAGES,
    FAILURES,
    TOKENS_BEFORE,
    TOKENS_AFTER,
    OUTPUT_TOKENS,
    BUSY_SECONDS,
    PAGE_SECONDS,
    UNITS,
    WORKERS_LOST,
    QUEUE,
)

#: Ray computes a histogram's sum from the middles of its buckets; exact seconds are in ``BUSY_SECONDS``.
PAGE_SECONDS_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class PageMetrics:
    """Counts of pages, exported by the process that makes their rows: a worker, or the driver for a unit given up."""

    def __init__(self) -> None:
        self._pages = _made(PAGES)
        self._failures = _made(FAILURES)
        self._tokens_before = _made(TOKENS_BEFORE)
        self._tokens_after = _made(TOKENS_AFTER)
        self._output_tokens = _made(OUTPUT_TOKENS)
        self._busy_seconds = _made(BUSY_SECONDS)
        self._page_seconds = _made(PAGE_SECONDS)

    def record(self, rows: Sequence[PageRow]) -> None:
        """Count ``rows``, each of which must come here once.

        A row's times are its even shares of what its batches took, so that their sum over the rows is the time in which
        the model was busy. Readings that were thrown away and audits are not in it.
        """
        for row in rows:
            model = {"model": row.model}
            self._pages.inc(1, tags={"status": row.status, **model})
            if row.status == "failed":
                self._failures.inc(1, tags={"reason": row.reason or Reason.UNEXPECTED})
            _add(self._tokens_before, row.visual_tokens_before, model)
            _add(self._tokens_after, row.visual_tokens_after, model)
            _add(self._output_tokens, row.output_tokens, model)
            times = (row.encode_ms, row.prune_ms, row.prefill_ms, row.decode_ms)
            seconds = sum(time or 0.0 for time in times) / 1000.0
            if seconds:
                self._busy_seconds.inc(seconds, tags=model)
                self._page_seconds.observe(seconds, tags=model)


class DriverMetrics:
    """Counts of units and workers, exported by the driver."""

    def __init__(self) -> None:
        self._units = _made(UNITS)
        self._workers_lost = _made(WORKERS_LOST)
        self._queue = _made(QUEUE)

    def unit_committed(self) -> None:
        """One more unit is in the dataset, read or given up."""
        self._units.inc()

    def worker_lost(self, reason: LossReason) -> None:
        """A worker is gone: its process died, it was killed for taking too long, or it died before it was ready."""
        self._workers_lost.inc(1, tags={"reason": reason})

    def queue(self, waiting: int, in_flight: int) -> None:
        """Units that no worker has yet, and units sent to workers; set 0 and 0 at the end, or the last value stays."""
        self._queue.set(waiting, tags={"state": "waiting"})
        self._queue.set(in_flight, tags={"state": "in_flight"})


def _made(series: Series) -> Any:
    from ray.util import metrics  # imported here, as the session sets what Ray reads on its first import

    if series.kind == "counter":
        return metrics.Counter(series.name, series.description, series.tags)
    if series.kind == "gauge":
        return metrics.Gauge(series.name, series.description, series.tags)
    return metrics.Histogram(series.name, series.description, list(PAGE_SECONDS_BOUNDS), series.tags)


def _add(counter: Any, value: float | None, tags: dict[str, str]) -> None:
    if value:  # Ray refuses to count nothing
        counter.inc(value, tags=tags)
