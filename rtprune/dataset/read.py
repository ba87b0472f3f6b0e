"""Reading a dataset: committed rows only, at any time, also while runs are writing.

After a publish any Parquet reader sees the same rows by a plain glob over ``OUTPUT/pages/**/*.parquet``.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from rtprune.dataset.commit import committed_files
from rtprune.dataset.output import Output
from rtprune.dataset.plan import load_plans, standing_documents
from rtprune.dataset.schema import DOCUMENTS, PAGES
from rtprune.errors import RTPruneError, UsageError
from rtprune.store import join, open_filesystem, store_errors

#: The stages that a page's time is divided into.
STAGES = ("render", "encode", "prune", "prefill", "decode")


@dataclass(frozen=True)
class Statistics:
    """What a dataset holds. Counts are pages or documents; tokens are sums over pages; times are milliseconds.

    ``audit_distance`` is the mean over the ``audited_pages``.
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


def read_pages(output: Output, columns: Sequence[str] | None = None) -> pa.Table:
    """The committed page rows as one table, in no particular order; all columns unless some are named.

    Raises:
        UsageError: a column that there is not.
        RTPruneError: a file of the dataset is missing or damaged.
    """
    with _reading(output):
        return _scanner(output, columns).to_table()


def read_documents(output: Output) -> pa.Table:
    """One row per object of the source in each version met, in the order they were planned."""
    return pa.concat_tables([DOCUMENTS.empty_table(), *standing_documents(load_plans(output))])


def statistics(output: Output) -> Statistics:
    """Counts and sums over the committed rows, in constant memory."""
    tokens = ("visual_tokens_before", "visual_tokens_after", "prompt_tokens", "output_tokens")
    times = tuple(f"{stage}_ms" for stage in STAGES)
    pages: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    sums = dict.fromkeys((*tokens, *times, "audit_distance"), 0)
    audited = 0
    for batch in _batches(output, ("status", "error_type", *sums)):
        audited += pc.count(batch.column("audit_distance")).as_py()
        pages.update(batch.column("status").to_pylist())
        failures.update(_reasons(batch))
        for name in sums:
            sums[name] += pc.sum(batch.column(name)).as_py() or 0
    documents = read_documents(output)
    planned = documents.filter(pc.equal(documents.column("status"), "ok"))
    return Statistics(
        pages=dict(sorted(pages.items())),
        documents=dict(sorted(Counter(documents.column("status").to_pylist()).items())),
        page_failures=dict(failures.most_common()),
        document_failures=dict(Counter(_reasons(documents)).most_common()),
        planned_pages=pc.sum(planned.column("pages")).as_py() or 0,
        **{name: int(sums[name]) for name in tokens},
        stage_ms={stage: float(sums[f"{stage}_ms"]) for stage in STAGES},
        audited_pages=audited,
        audit_distance=sums["audit_distance"] / audited if audited else None,
    )


def _reasons(rows: pa.Table | pa.RecordBatch) -> list[str]:
    failed = rows.filter(pc.equal(rows.column("status"), "failed"))
    return [reason or "unknown" for reason in failed.column("error_type").to_pylist()]


def _batches(output: Output, columns: Sequence[str]) -> Iterator[Any]:
    with _reading(output):
        yield from _scanner(output, columns).to_batches()


@contextmanager
def _reading(output: Output) -> Iterator[None]:
    with store_errors(output.uri):
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise
            raise RTPruneError(
                f"the dataset at {output.uri} is damaged: {' '.join(str(error).split())}",
                "restore its files from a backup, or read the corpus into a new OUTPUT",
            ) from error


def _scanner(output: Output, columns: Sequence[str] | None) -> pads.Scanner:
    unknown = sorted(set(columns or ()) - set(PAGES.names))
    if unknown:
        raise UsageError(f"pages have no column {unknown[0]!r}", f"there are {', '.join(PAGES.names)}")
    filesystem, root = open_filesystem(output.uri)
    files = [join(root, file.file) for file in committed_files(output).values()]
    read = pads.ParquetFileFormat(default_fragment_scan_options=_verified())
    dataset = pads.dataset(sorted(files), schema=PAGES, format=read, filesystem=filesystem)
    return dataset.scanner(columns=None if columns is None else list(columns))


def _verified() -> pads.ParquetFragmentScanOptions:
    """Checksums are in the files; a flipped bit becomes an error instead of a wrong text."""
    return pads.ParquetFragmentScanOptions(page_checksum_verification=True)
