"""What ``rtprune export``, ``compact`` and ``verify`` print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rtprune.report.summary import LABEL_WIDTH
from rtprune.report.wording import count, size

if TYPE_CHECKING:
    from rtprune.dataset import Compaction, Verdict
    from rtprune.dataset.export import Exported
    from rtprune.dataset.findings import Findings


def compaction_summary(uri: str, done: Compaction) -> str:
    """A few lines on what a compaction did."""
    if not done.made:
        lines = [f"nothing to compact: of {count(done.files, 'file')} fewer than two are small"]
    else:
        lines = [
            f"{count(done.replaced, 'small file')} compacted into {done.made:,}",
            _line("files", f"{done.files:,} -> {done.files - done.replaced + done.made:,}"),
            _line("size of these", f"{size(done.bytes_before)} -> {size(done.bytes_after)}"),
        ]
    if done.swept:
        lines.append(_line("deleted", f"{count(done.swept, 'file')} that killed or doubled work had left"))
    return "\n".join([*lines, _line("dataset", uri)])


def export_summary(folder: str, done: Exported) -> str:
    """A few lines on what an export did."""
    lines = [
        f"{count(done.written, 'document')} written, {done.unchanged:,} unchanged",
        _line("folder", folder),
    ]
    if done.lacking:
        lines.append(_line("marked", f"{count(done.lacking, 'page')} that failed or were not read yet"))
    return "\n".join(lines)


def verdict_summary(uri: str, verdict: Verdict) -> str:
    """The findings of a verification, kind by kind."""
    checked = "their size, rows and columns" if verdict.quick else "their bytes, rows and columns"
    lines = [
        _line("dataset", uri),
        _line("files", f"{verdict.files:,}, checked by {checked}"),
        _line("pages", f"{verdict.planned_pages:,} planned, {verdict.pages:,} of them in one row"),
    ]
    if verdict.unread_pages:
        unread = f"{count(verdict.unread_pages, 'page')} in {count(verdict.unread_units, 'unit')}"
        lines.append(_line("not read yet", f"{unread}: the next run reads them"))
    lines.extend(_findings("harmless", verdict.harmless))
    lines.extend(_findings("error", verdict.errors))
    if not verdict.sound:
        lines.append(f"{count(sum(verdict.errors.totals.values()), 'error')}: this dataset does not keep its promise")
    elif verdict.unread_pages:
        lines.append("every page read so far is in exactly one row")
    else:
        lines.append("every planned page is in exactly one row")
    return "\n".join(lines)


def verdict_values(uri: str, verdict: Verdict) -> dict[str, Any]:
    """The same for programs."""
    return {"dataset": uri, "sound": verdict.sound} | asdict(verdict)


def _findings(label: str, findings: Findings) -> Iterator[str]:
    for kind, group in groupby(findings.kept, key=lambda finding: finding.kind):
        shown = list(group)
        total = findings.totals[kind]
        yield _line(label, f"{kind}: {total:,}")
        yield from (f"  {finding.where}: {finding.what}" for finding in shown)
        if total > len(shown):
            yield f"  ... and {total - len(shown):,} more"


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"
