"""What ``rtprune failures`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtprune.report.wording import count, one_line

if TYPE_CHECKING:
    import pyarrow as pa


def failure_list(failures: pa.Table) -> str:
    """A line for each of ``rtprune.read_failures``, and how many there are."""
    return "\n".join(_lines(failures))


def _lines(failures: pa.Table) -> Iterator[str]:
    documents = passing = 0
    for batch in failures.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            documents += row["page"] is None
            passing += row["passing"]
            page = "" if row["page"] is None else f", page {row['page']}"
            again = " (trying again may help)" if row["passing"] else ""
            yield one_line(f"{row['uri']}{page} [{row['reason']}]{again} {row['message'] or ''}")
    pages = failures.num_rows - documents
    yield f"{count(documents, 'document')} and {count(pages, 'page')} failed; another try may help {passing:,} of them"
