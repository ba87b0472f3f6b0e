"""What the command line prints at the end: a run's summary, a dataset's statistics, one page's facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rtprune.report.failures import first_failures_named
from rtprune.report.wording import count, duration, share_saved

if TYPE_CHECKING:
    from rtprune.corpus.values import RunSummary
    from rtprune.dataset import Statistics
    from rtprune.engine import PageResult

LABEL_WIDTH = 18


def run_summary(summary: RunSummary) -> str:
    """A few lines on what a run did, and the first of what it could not read."""
    if summary.status == "nothing to do":
        return "\n".join(
            [
                f"nothing to do: all of {count(summary.objects, 'object')} in the source are in the dataset already",
                *table([("dataset", summary.output)]),
            ]
        )
    tally = summary.tally
    pages = f"{tally.pages:,} recorded" + (f", {tally.failed:,} of them failed" if tally.failed else "")
    documents = f"{summary.documents:,} looked into" + (
        f", {summary.documents_failed:,} of them could not be opened" if summary.documents_failed else ""
    )
    if summary.not_documents:
        documents += f" ({summary.not_documents:,} are no documents)"
    lines = [("documents", documents), ("pages", pages)]
    if tally.tokens_before:
        lines.append(("visual tokens", _tokens(tally.tokens_before, tally.tokens_after)))
    if summary.elsewhere:
        lines.append(
            ("other runs", f"{count(summary.elsewhere, 'unit')}, {summary.doubled:,} of them read here as well")
        )
    lines.append(("dataset", summary.output))
    if summary.status == "stopped":
        head = f"stopped after {duration(summary.seconds)}, what was read is kept: the same command goes on from here"
    elif summary.status == "failed":
        head = f"failed after {duration(summary.seconds)}, what was read is kept: {summary.message}"
    else:
        head = f"finished in {duration(summary.seconds)}"
    failed = first_failures_named(summary.failures, tally.failed + summary.documents_failed, summary.output)
    return "\n".join([head, *table(lines), *(["failures", *failed] if failed else [])])


def dataset_statistics(uri: str, facts: Statistics) -> str:
    """Pages, documents, failures by reason and what pruning saved."""
    missing = facts.planned_pages - facts.page_count
    lines = [
        ("dataset", uri),
        ("documents", counts(facts.documents)),
        ("pages", counts(facts.pages)),
    ]
    if missing > 0:
        lines.append(("", f"{missing:,} planned pages are still to be read: run the same command again"))
    lines += failures_and_tokens(facts)
    if facts.audit_distance is not None:
        kept = f"{100 * (1 - facts.audit_distance):.1f} % of the unpruned text"
        lines.append(("pruned text keeps", f"{kept}, on the mean of {count(facts.audited_pages, 'audited page')}"))
    if facts.page_count:
        lines.append(("output tokens", f"{facts.output_tokens:,}"))
    total = sum(facts.stage_ms.values())
    if total:
        shares = (f"{stage} {100 * spent / total:.0f} %" for stage, spent in facts.stage_ms.items())
        lines.append(("time in workers", f"{duration(total / 1000)}: {', '.join(shares)}"))
    failed = first_failures_named(facts.failures, facts.failure_count, uri)
    return "\n".join([*table(lines), *(["failures", *failed] if failed else [])])


def failures_and_tokens(facts: Statistics) -> list[tuple[str, str]]:
    """What failed, by reason, and what pruning saved: lines of a `table`."""
    lines = []
    if facts.document_failures:
        lines.append(("failed documents", _reasons(facts.document_failures)))
    if facts.page_failures:
        lines.append(("failed pages", _reasons(facts.page_failures)))
    if facts.visual_tokens_before:
        lines.append(("visual tokens", _tokens(facts.visual_tokens_before, facts.visual_tokens_after)))
    return lines


def statistics_values(uri: str, facts: Statistics) -> dict[str, Any]:
    """The same for programs."""
    return {"dataset": uri, "saved_share": facts.saved_share, "failure_count": facts.failure_count} | asdict(facts)


def page_facts(result: PageResult, *, page_count: int, model: str, mode: str) -> str:
    """What reading one page of a document took and saved."""
    lines = [("page", f"{result.page} of {page_count}, read by {model} in mode {mode}: {result.status}")]
    facts = result.facts
    if facts:
        lines.append(("visual tokens", _tokens(facts.tokens_before, facts.tokens_after)))
        measured = [
            f"{name} {value:.3f}"
            for name, value in (("similarity", facts.similarity), ("density", facts.density))
            if value is not None
        ]
        pruned = f"{100 * facts.ratio:.1f} % of the free tokens"
        lines.append(("pruned", f"{pruned} ({', '.join(measured)})" if measured else pruned))
    guessed = f" in {result.decode_steps:,} steps" if result.accepted_tokens else ""
    lines.append(("output tokens", f"{result.output_tokens:,}{guessed}"))
    times = result.timings
    stages = {
        "render": times.render_ms,
        "encode": times.encode_ms,
        "prune": times.prune_ms,
        "prefill": times.prefill_ms,
        "decode": times.decode_ms,
    }
    lines.append(("milliseconds", ", ".join(f"{stage} {spent:,.0f}" for stage, spent in stages.items())))
    return "\n".join(table(lines))


def _tokens(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({share_saved(before, after)} saved)"


def counts(by_status: Mapping[str, int]) -> str:
    """``10 (failed 3, ok 7)``."""
    total = sum(by_status.values())
    if not by_status:
        return "0"
    return f"{total:,} ({', '.join(f'{status} {number:,}' for status, number in by_status.items())})"


def _reasons(by_reason: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {number:,}" for reason, number in by_reason.items())


def table(lines: Iterable[tuple[str, str]]) -> list[str]:
    """Labels and what they stand for, in two columns."""
    return [f"{label:<{LABEL_WIDTH}}{text}".rstrip() for label, text in lines]
