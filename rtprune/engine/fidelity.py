"""What pruning costs on the user's own pages: some are read unpruned as well, and the two texts are compared."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

_log = logging.getLogger(__name__)

LEAST_AUDITS = 10  # audits before a mean is believed


@dataclass(frozen=True)
class Audit:
    """A page's pruned answer against its unpruned one.

    Attributes:
        distance: edits between the texts / length of the longer one: 0 for equal texts, 1 for nothing in common.
        output_tokens: tokens of the unpruned answer.
    """

    distance: float
    output_tokens: int


class FidelityFloor:
    """Watches audits, and says, once, when pruning has cost more than it may.

    Args:
        floor: least mean of 1 - distance; ``None`` for none.
    """

    def __init__(self, floor: float | None) -> None:
        self._floor = floor
        self._kept: list[float] = []
        self._broken = False

    def broken_by(self, audit: Audit) -> bool:
        """Take the next audit; whether the mean of all, ten at least, fell below the floor with it."""
        self._kept.append(1.0 - audit.distance)
        mean = float(np.mean(self._kept))
        if self._broken or self._floor is None or len(self._kept) < LEAST_AUDITS or mean >= self._floor:
            return False
        self._broken = True
        _log.warning(
            "PRUNING IS OFF from here on: %d audited pages keep %.1f %% of their unpruned text, the floor is %.1f %%",
            len(self._kept),
            100 * mean,
            100 * self._floor,
        )
        return True


def normalised_distance(left: str, right: str) -> float:
    """`edit_distance` / length of the longer text; 0 where both are empty."""
    longer = max(len(left), len(right))
    return edit_distance(left, right) / longer if longer else 0.0


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements that turn ``left`` into ``right``."""
    before = np.arange(len(right) + 1)
    codes = np.array([ord(character) for character in right])
    for row, character in enumerate(left, start=1):
        after = np.minimum(before[1:] + 1, before[:-1] + (codes != ord(character)))
        after = np.concatenate([[row], after])
        # an insertion may follow an insertion: the running minimum of (value - column), put back
        before = np.minimum.accumulate(after - np.arange(len(after))) + np.arange(len(after))
    return int(before[-1])
