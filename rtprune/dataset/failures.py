"""What could not be read, row by row, and the first few of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rtprune.dataset.schema import DocumentRow, PageRow
from rtprune.errors import Reason

#: Failures that a summary names; ``rtprune failures`` lists all.
NAMED = 10

PASSING = frozenset(reason.value for reason in Reason if reason.passing)


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A page that could not be read, or a whole document where ``page`` is ``None``.

    ``passing`` is whether trying the same again may help.
    """

    uri: str
    page: int | None
    reason: str
    message: str | None
    passing: bool

    @classmethod
    def of(cls, row: PageRow | DocumentRow) -> FailureRow:
        """That of a row with status "failed"."""
        page = row.page if isinstance(row, PageRow) else None
        return cls._of({"uri": row.uri, "page": page, "reason": row.reason, "message": row.message})

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> FailureRow:
        reason = str(values["reason"] or "unknown")
        return cls(values["uri"], values.get("page"), reason, values["message"], reason in PASSING)


def first_failures(failures: Iterable[FailureRow]) -> tuple[FailureRow, ...]:
    """The first ``NAMED`` of them: documents, then pages, then files that are no documents, each by URI and page."""
    return tuple(heapq.nsmallest(NAMED, failures, key=_place))


def first_failures_in(rows: pa.Table | pa.RecordBatch) -> tuple[FailureRow, ...]:
    """The same of rows of ``pages`` or ``documents``, failed or not."""
    failed = rows.filter(pc.equal(rows.column("status"), "failed"))
    foreign = pc.fill_null(pc.equal(failed.column("reason"), Reason.NOT_A_DOCUMENT.value), False)
    order = [(name, "ascending") for name in ("uri", "page") if name in failed.schema.names]
    found: list[FailureRow] = []
    for part in (failed.filter(pc.invert(foreign)), failed.filter(foreign)):
        if len(part):
            found.extend(map(FailureRow._of, part.take(pc.select_k_unstable(part, NAMED, order)).to_pylist()))
    return first_failures(found)


def _place(failure: FailureRow) -> tuple[bool, bool, str, int]:
    return failure.reason == Reason.NOT_A_DOCUMENT, failure.page is not None, failure.uri, failure.page or 0
