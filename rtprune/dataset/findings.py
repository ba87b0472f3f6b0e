"""What a verification reports: findings by kind, and the counts to see them against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

#: Findings of one kind that are kept; the rest are only counted.
KEPT = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: a short stable name of its kind, the object it is about, and what is the matter in words."""

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
    """What a verification reports. Counts are pages, units and files; units not committed yet are ``unread``.

    ``pages`` are where they belong, each once. ``errors`` break a promise; what is ``harmless`` was left by killed or
    running work, and changes no page that ``read_pages`` gives.
    """

    quick: bool
    files: int
    planned_units: int
    planned_pages: int
    pages: int
    unread_units: int
    unread_pages: int
    errors: Findings
    harmless: Findings

    @property
    def sound(self) -> bool:
        """Whether every page of a committed unit is in exactly one row, and all else is as it was written."""
        return not self.errors


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

    def has(self, *kinds: str) -> bool:
        """Whether there is one of these kinds."""
        return any(kind in self._totals for kind in kinds)

    def findings(self) -> Findings:
        """All of them, kind by kind."""
        order = list(self._totals)
        kept = sorted(self._kept, key=lambda finding: order.index(finding.kind))
        return Findings(tuple(kept), dict(self._totals))
