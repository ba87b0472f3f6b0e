"""Reading a dataset, at any time, also while runs are writing and compactions at work.

Any Parquet reader sees the same rows by a plain glob over ``OUTPUT/pages/**/*.parquet`` while runs write; what it sees
during a compaction is said in ``compact``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from rtprune.dataset.documents import current_documents, standing_documents
from rtprune.dataset.failures import PASSING, FailureRow, first_failures, first_failures_in
from rtprune.dataset.files import current_files
from rtprune.dataset.layout import Output
from rtprune.dataset.schema import DOCUMENTS, PAGES
from rtprune.errors import RTPruneError, StoreError, UsageError
from rtprune.store import join, open_filesystem, store_errors

#: The stages that a page's time is divided into.
STAGES = ("render", "encode", "prune", "prefill", "decode")

#: How often a reader begins again because a compaction replaced a file that it was about to read.
BEGINNINGS = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Statistics:
    """What a dataset holds. Counts are pages or documents; tokens are sums over pages; times are milliseconds.

    ``pages`` and ``documents`` are by status, failures by reason, ``pages_by_run`` by the run that wrote them.
    ``audit_distance`` is the mean over the ``audited_pages``; ``failures`` are the first few, see
    ``rtprune.dataset.failures``.
    """

    pages: Mapping[str, int]
    documents: Mapping[str, int]
    page_failures: Mapping[str, int]
    document_failures: Mapping[str, int]
    planned_pages: int
    visual_tokens_before: int
    visual_tokens_after: int
    prompt_tokens: int
    output_tokens: int
    stage_ms: Mapping[str, float]
    audited_pages: int = 0
    audit_distance: float | None = None
    failures: Sequence[FailureRow] = ()
    pages_by_run: Mapping[str, int] = field(default_factory=dict)

    @property
    def failure_count(self) -> int:
        """Number of pages and documents that could not be read."""
        return sum(self.page_failures.values()) + sum(self.document_failures.values())

    @property
    def page_count(self) -> int:
        """Number of pages in the dataset."""
        return sum(self.pages.values())

    @property
    def saved_share(self) -> float | None:
        """Share of the visual tokens that pruning removed, 0..1; ``None`` where no page has any."""
        if not self.visual_tokens_before:
            return None
        return 1.0 - self.visual_tokens_after / self.visual_tokens_before


def read_pages(output: Output | str, columns: Sequence[str] | None = None, *, current: bool = False) -> pa.Table:
    """The page rows as one table, in no particular order.

    Args:
        output: the dataset, or its URI.
        columns: those to read; all unless some are named.
        current: leave out pages that no object holds any more: those of earlier versions, where an object has changed.

    Raises:
        UsageError: a column that there is not.
        StoreError: compactions replaced files faster than they could be read.
        RTPruneError: a file of the dataset is missing or damaged.
    """
    unknown = sorted(set(columns or ()) - set(PAGES.names))
    if unknown:
        raise UsageError(f"pages have no column {unknown[0]!r}", f"there are {', '.join(PAGES.names)}")
    output = _dataset(output)
    held = pc.field("doc_id").isin(_held(output)) if current else None
    return _scan(output, columns, lambda scanner: scanner.to_table(), held)


def _held(output: Output) -> pa.Array:
    """The documents that some object has in its last version."""
    return read_documents(output, current=True).column("doc_id").combine_chunks()


def read_documents(output: Output | str, *, current: bool = False) -> pa.Table:
    """One row per object of the source in each version met, in the order they were planned.

    Args:
        output: the dataset, or its URI.
        current: only the version of each object that was planned last, where that one could be opened.
    """
    documents = pa.concat_tables([DOCUMENTS.empty_table(), *standing_documents(_dataset(output))])
    return current_documents(documents) if current else documents


def read_failures(output: Output | str) -> pa.Table:
    """What could not be read, documents first: ``uri``, ``page`` (null for a whole document), ``reason``, ``message``
    and ``passing``, whether trying the same again may help.

    Errors are those of ``read_pages``. Rows of ``documents`` are one per object: a document that many objects hold is
    there as often.
    """
    output = _dataset(output)
    documents = read_documents(output)
    documents = documents.filter(pc.equal(documents.column("status"), "failed"))
    unopened = documents.append_column("page", pa.nulls(len(documents), PAGES.field("page").type))
    columns = ("uri", "page", "reason", "message")
    failed = pc.field("status") == "failed"
    pages = _scan(output, columns, lambda scanner: scanner.to_table(), failed)
    found = pa.concat_tables(
        [
            part.select(columns).replace_schema_metadata().sort_by([("uri", "ascending"), ("page", "ascending")])
            for part in (unopened, pages)
        ],
        promote_options="permissive",
    )
    passing = pc.is_in(found.column("reason"), pa.array(sorted(PASSING)))
    return found.append_column("passing", passing)


def statistics(output: Output | str) -> Statistics:
    """Counts and sums over all rows, in constant memory. ``output`` and errors are those of ``read_pages``."""
    output = _dataset(output)
    sums = _scan(output, ("run_id", *_NAMING, *_SUMMED), _sums)
    documents = read_documents(output)
    planned = documents.filter(pc.equal(documents.column("status"), "ok"))
    return Statistics(
        pages=dict(sorted(sums.pages.items())),
        documents=dict(sorted(Counter(documents.column("status").to_pylist()).items())),
        page_failures=dict(sums.failures.most_common()),
        document_failures=dict(Counter(_reasons(documents)).most_common()),
        planned_pages=pc.sum(planned.column("pages")).as_py() or 0,
        **{name: int(sums.totals[name]) for name in _TOKENS},
        stage_ms={stage: float(sums.totals[f"{stage}_ms"]) for stage in STAGES},
        audited_pages=sums.audited,
        audit_distance=sums.totals["audit_distance"] / sums.audited if sums.audited else None,
        failures=first_failures((*first_failures_in(documents), *sums.first)),
        pages_by_run=dict(sorted(sums.runs.items())),
    )


_NAMING = ("uri", "page", "status", "reason", "message")
_TOKENS = ("visual_tokens_before", "visual_tokens_after", "prompt_tokens", "output_tokens")
_SUMMED = (*_TOKENS, *(f"{stage}_ms" for stage in STAGES), "audit_distance")


@dataclass(frozen=True)
class _Sums:
    pages: Counter[str]
    failures: Counter[str]
    totals: Mapping[str, float]
    audited: int
    first: Sequence[FailureRow]
    runs: Counter[str]


def _sums(scanner: pads.Scanner) -> _Sums:
    pages: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    totals: dict[str, float] = dict.fromkeys(_SUMMED, 0)
    audited = 0
    first: tuple[FailureRow, ...] = ()
    runs: Counter[str] = Counter()
    for batch in scanner.to_batches():
        audited += pc.count(batch.column("audit_distance")).as_py()
        pages.update(batch.column("status").to_pylist())
        runs.update(batch.column("run_id").to_pylist())
        failures.update(_reasons(batch))
        first = first_failures((*first, *first_failures_in(batch)))
        for name in _SUMMED:
            totals[name] += pc.sum(batch.column(name)).as_py() or 0
    return _Sums(pages, failures, totals, audited, first, runs)


def _reasons(rows: pa.Table | pa.RecordBatch) -> list[str]:
    failed = rows.filter(pc.equal(rows.column("status"), "failed"))
    return [reason or "unknown" for reason in failed.column("reason").to_pylist()]


def _dataset(output: Output | str) -> Output:
    return Output.existing(output) if isinstance(output, str) else output


def _scan(
    output: Output,
    columns: Sequence[str] | None,
    take: Callable[[pads.Scanner], T],
    only: pc.Expression | None = None,
) -> T:
    """What ``take`` makes of the rows; it begins again where a compaction has replaced a file meanwhile."""
    files = _files(output)
    for _ in range(BEGINNINGS):
        try:
            with _reading(output):
                return take(_scanner(output, files, columns, only))
        except FileNotFoundError as error:
            before, files = files, _files(output)
            if files == before:
                raise _damaged(output, error) from error
    raise StoreError(
        f"compactions replaced files of {output.uri} faster than they could be read", "read again when they are done"
    )


def _files(output: Output) -> list[str]:
    return [file.file for file in current_files(output).files]


@contextmanager
def _reading(output: Output) -> Iterator[None]:
    with store_errors(output.uri):
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _damaged(output, error) from error


def _damaged(output: Output, error: Exception) -> RTPruneError:
    return RTPruneError(
        f"the dataset at {output.uri} is damaged: {' '.join(str(error).split())}",
        "restore its files from a backup, or read the corpus into a new OUTPUT",
    )


def _scanner(
    output: Output, files: Sequence[str], columns: Sequence[str] | None, only: pc.Expression | None
) -> pads.Scanner:
    filesystem, root = open_filesystem(output.uri)
    read = pads.ParquetFileFormat(default_fragment_scan_options=_verified())
    dataset = pads.dataset([join(root, file) for file in files], schema=PAGES, format=read, filesystem=filesystem)
    return dataset.scanner(columns=None if columns is None else list(columns), filter=only)


def _verified() -> pads.ParquetFragmentScanOptions:
    """Checksums are in the files; a flipped bit becomes an error instead of a wrong text."""
    return pads.ParquetFragmentScanOptions(page_checksum_verification=True)
