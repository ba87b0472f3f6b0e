"""What is printed of failures: all of them by ``rtprune failures``, the first by summaries."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rtprune.dataset.failures import FailureRow
from rtprune.report.wording import count, one_line

if TYPE_CHECKING:
    import pyarrow as pa

MESSAGE_LENGTH = 200  # characters of a message that a summary shows


def failure_list(failures: pa.Table) -> str:
    """A line for each of ``rtprune.read_failures``, and how many there are."""
    return "\n".join(_lines(failures))


def first_failures_named(first: Sequence[FailureRow], total: int, uri: str) -> list[str]:
    """A line for each of the first failures, and where the rest of the ``total`` is listed."""
    lines = [f"  {_line(_shortened(failure))}" for failure in first]
    if total > len(first):
        lines.append(f"  and {total - len(first):,} more: rtprune failures {one_line(shlex.quote(uri))}")
    return lines


def _lines(failures: pa.Table) -> Iterator[str]:
    documents = passing = 0
    for batch in failures.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            documents += row["page"] is None
            passing += row["passing"]
            yield _line(FailureRow(**row))
    pages = failures.num_rows - documents
    yield f"{count(documents, 'document')} and {count(pages, 'page')} failed; another try may help {passing:,} of them"


def _line(failure: FailureRow) -> str:
    page = "" if failure.page is None else f", page {failure.page}"
    again = " (trying again may help)" if failure.passing else ""
    return one_line(f"{failure.uri}{page} [{failure.reason}]{again} {failure.message or ''}")


def _shortened(failure: FailureRow) -> FailureRow:
    message = failure.message or ""
    if len(message) <= MESSAGE_LENGTH:
        return failure
    return replace(failure, message=f"{message[:MESSAGE_LENGTH]}...")
