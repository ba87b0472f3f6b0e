"""Whether so much of a run has failed that the run itself has."""

from __future__ import annotations

from rtprune.corpus.values import Planned, Tally
from rtprune.settings import Limit


def too_many_failed(limit: Limit, planned: Planned, tally: Tally) -> str | None:
    """What to say where more pages or documents of a run failed than ``limit`` allows; ``None`` where not.

    Files that are no documents count on neither side.
    """
    documents = planned.documents - planned.not_documents
    for what, failed, total in (
        ("pages", tally.failed, tally.pages),
        ("documents", planned.documents_failed - planned.not_documents, documents),
    ):
        if exceeds(limit, failed, total):
            return f"{failed:,} of {total:,} {what} failed, more than the {limit} that may (--max-failed)"
    return None


def exceeds(limit: Limit, failed: int, total: int) -> bool:
    """Whether ``failed`` of ``total`` are more than a ``limit`` such as "5%" or "20"."""
    if limit.endswith("%"):
        return failed * 100 > float(limit[:-1]) * total
    return failed > int(limit)
