"""What a verification tells: findings by kind, and the counts that they are to be seen against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

#: Findings of one kind that are kept; of the rest only their number is told.
KEPT = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: a short stable name of its kind, the object it is about, and in words."""

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class Findings:
    """The first ``KEPT`` findings of each kind, and how many there are of each."""

    kept: tuple[Finding, ...]
    totals: Mapping[str, int]

    def __bool__(self) -> bool:
        return bool(self.totals)


@dataclass(frozen=True)
class Verdict:
    """What a verification found. Counts are pages, units and data files; units not committed yet are ``unread``.

    ``pages`` were found where they belong. ``off`` is what breaks a promise; ``harmless`` is what killed or running
    work leaves, which changes no page that ``read_pages`` gives.
    """

    quick: bool
    files: int
    planned_units: int
    planned_pages: int
    pages: int
    unread_units: int
    unread_pages: int
    off: Findings
    harmless: Findings

    @property
    def sound(self) -> bool:
        """Whether every page of a committed unit is in exactly one row, and all else is as it was written."""
        return not self.off


class Collector:
    """Takes findings in while a verification goes on."""

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._totals: Counter[str] = Counter()

    def add(self, kind: str, where: str, what: str) -> None:
        """Take one in."""
        self._totals[kind] += 1
        if self._totals[kind] <= KEPT:
            self._kept.append(Finding(kind, where, what))

    def found(self, kind: str) -> bool:
        """Whether there is one of this kind."""
        return kind in self._totals

    def findings(self) -> Findings:
        """All of them, kind by kind."""
        order = list(self._totals)
        kept = sorted(self._kept, key=lambda finding: order.index(finding.kind))
        return Findings(tuple(kept), dict(self._totals))
