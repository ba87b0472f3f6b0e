"""What ``rtprune status`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rtprune.report.summary import counts, failures_and_tokens, table
from rtprune.report.wording import count, duration, one_line

if TYPE_CHECKING:
    from rtprune.dataset import DatasetStatus, RunState

#: Runs that are shown, the last ones.
SHOWN = 10


def status_text(status: DatasetStatus) -> str:
    """Pages done and left, rate, failures and tokens; then a line for each of the last runs."""
    facts = status.facts
    lines = [("dataset", status.uri), ("pages", _pages(status)), ("documents", counts(facts.documents))]
    lines += failures_and_tokens(facts)
    if status.at_work:
        rate = status.pages_per_second
        lines.append(("rate", f"{_rate(rate)}, the mean since the runs at work began" if rate else "not known yet"))
    if status.seconds_left is not None:
        lines.append(("time left", f"{duration(status.seconds_left)} for the pages planned so far, at this rate"))
    lines.append(("runs", _kinds(status)))
    return "\n".join([*table(lines), *_runs(status)])


def status_values(status: DatasetStatus) -> dict[str, Any]:
    """The same for programs: all runs, times in ISO 8601."""
    facts = status.facts
    return {
        "dataset": status.uri,
        "looked_at": status.looked_at.isoformat(),
        "planned_pages": facts.planned_pages,
        "pages": dict(facts.pages),
        "pages_left": status.pages_left,
        "documents": dict(facts.documents),
        "page_failures": dict(facts.page_failures),
        "document_failures": dict(facts.document_failures),
        "visual_tokens_before": facts.visual_tokens_before,
        "visual_tokens_after": facts.visual_tokens_after,
        "saved_share": facts.saved_share,
        "pages_per_second": status.pages_per_second,
        "seconds_left": status.seconds_left,
        "runs": [_run_values(run) for run in status.runs],
    }


def _run_values(run: RunState) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "source": run.source,
        "status": run.status,
        "at_work": run.at_work,
        "started_at": run.started_at.isoformat(),
        "last_seen_at": run.last_seen_at.isoformat(),
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "pages": run.pages,
        "pages_per_second": run.pages_per_second,
        "message": run.message,
    }


def _pages(status: DatasetStatus) -> str:
    facts = status.facts
    if not facts.planned_pages:
        return "none planned yet"
    share = 100 * facts.page_count / facts.planned_pages
    so_far = " planned so far" if status.at_work else " planned"
    left = f", {status.pages_left:,} left" if status.pages_left else ""
    return f"{facts.page_count:,} of {facts.planned_pages:,}{so_far} ({share:.1f} %){left}"


def _kinds(status: DatasetStatus) -> str:
    at_work = len(status.at_work)
    silent = sum(run.status == "running" for run in status.runs) - at_work
    ended = len(status.runs) - at_work - silent
    kinds = [(at_work, "at work"), (silent, "not seen lately"), (ended, "ended")]
    return ", ".join(f"{number:,} {kind}" for number, kind in kinds if number) or "none"


def _runs(status: DatasetStatus) -> Iterator[str]:
    for run in status.runs[:SHOWN]:
        rate = f", {_rate(run.pages_per_second)}" if run.pages_per_second else ""
        why = f": {run.message}" if run.message else ""
        did = f"{_state(run, status.looked_at)}, {count(run.pages, 'page')} committed{rate}"
        yield one_line(f"{run.run_id} {did}, from {run.source}{why}")
    if len(status.runs) > SHOWN:
        yield f"and {count(len(status.runs) - SHOWN, 'earlier run')}: --json has all"


def _state(run: RunState, now: datetime) -> str:
    if run.at_work:
        return f"at work for {duration(run.seconds)}, seen {duration(run.unseen_s)} ago"
    if run.status == "running" or run.ended_at is None:
        return f"says it is running and was last seen {duration(run.unseen_s)} ago"
    ago = max(0.0, (now - run.ended_at).total_seconds())
    return f"{run.status} {duration(ago)} ago after {duration(run.seconds)}"


def _rate(pages_per_second: float | None) -> str:
    rate = pages_per_second or 0.0
    return f"{rate:,.1f} pages/s" if rate >= 0.1 else f"{rate * 60:.1f} pages a minute"
