"""What pruning costs on the user's own pages: some are read unpruned as well, and the two texts are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def below_floor(audits: int, distance: float, floor: float) -> bool:
    """Whether audited pages keep less than ``floor`` of their text on the mean: believed of ten pages at least.

    Args:
        audits: pages read both ways.
        distance: the sum of their `Audit.distance`.
        floor: least mean of 1 - distance.
    """
    return audits >= LEAST_AUDITS and 1.0 - distance / audits < floor


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
