"""What the plan says of each object, without the rows that a later file of the plan supersedes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
import pyarrow.compute as pc

from rtprune.dataset.layout import Output
from rtprune.dataset.plan import documents_of, plan_table
from rtprune.store import get


def standing_documents(output: Output) -> Iterator[pa.Table]:
    """The ``documents`` rows of each plan, oldest first, that no later plan supersedes."""
    succession = Succession.of(plans(output))
    for number in range(1, len(succession.standing) + 1):
        yield succession.standing_rows(number, _plan(output, number))


def current_documents(documents: pa.Table) -> pa.Table:
    """Of each object the row of the version that was planned last, where that one could be opened.

    Args:
        documents: standing rows, in the order they were planned.
    """
    numbered = documents.select(["uri"]).append_column("row", pa.array(range(len(documents)), pa.int64()))
    last = numbered.group_by("uri").aggregate([("row", "max")]).column("row_max")
    rows = documents.take(last.take(pc.sort_indices(last)))
    return rows.filter(pc.not_equal(rows.column("status"), "failed"))


def plans(output: Output) -> Iterator[pa.Table]:
    """The tables of all plans, oldest first, one in memory at a time."""
    for number in count(1):
        try:
            plan = _plan(output, number)
        except FileNotFoundError:
            return
        yield plan


@dataclass(frozen=True)
class Succession:
    """Which rows of plans later plans supersede: those of objects that could not be opened at first.

    Attributes:
        latest: the number of the last plan that has such an object, by a hash of its URI and version.
        superseded: how many rows of each plan later ones supersede.
        standing: how many rows of each plan none does.
    """

    latest: Mapping[bytes, int]
    superseded: Mapping[int, int]
    standing: Sequence[int]

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Succession:
        """That of all plans, oldest first."""
        latest: dict[bytes, int] = {}
        superseded: Counter[int] = Counter()
        rows = []
        for number, plan in enumerate(tables, start=1):
            rows.append(len(plan))
            for key, status in zip(_keys(plan), plan.column("status").to_pylist(), strict=True):
                before = latest.get(key)
                if before is not None:
                    superseded[before] += 1
                if before is not None or status == "failed":
                    latest[key] = number
        standing = [total - superseded[number] for number, total in enumerate(rows, start=1)]
        return cls(latest, superseded, standing)

    def standing_rows(self, number: int, plan: pa.Table) -> pa.Table:
        """The ``documents`` rows of plan ``number`` that no later one supersedes."""
        rows = documents_of(plan)
        if not self.superseded.get(number):
            return rows
        return rows.filter(pa.array([self.latest.get(key, number) == number for key in _keys(plan)], pa.bool_()))


def _plan(output: Output, number: int) -> pa.Table:
    uri = output.plan_uri(number)
    return plan_table(get(uri), uri)


def _keys(plan: pa.Table) -> Iterator[bytes]:
    pairs = zip(plan.column("uri").to_pylist(), plan.column("version").to_pylist(), strict=True)
    return (hashlib.blake2b(f"{uri}\0{version}".encode(), digest_size=16).digest() for uri, version in pairs)
