"""Which tokens of the sequence survive."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtprune.pruning.layout import TokenKind


def kept_count(free_count: int, ratio: float) -> int:
    """M = floor(P (1 - r)), the number of free tokens that stay.

    Rounding errors do not cost a token: at r = 0.9, 10 tokens keep one, although 10 * (1 - 0.9) is 0.9999999999999998
    in floating point.
    """
    return min(free_count, math.floor(free_count * (1.0 - ratio) + 1e-9))


def by_score(scores: Tensor) -> Tensor:
    """int64 [P]: tokens from the largest of ``scores`` [P] to the smallest; of equal ones the earlier comes first."""
    return torch.sort(scores, descending=True, stable=True).indices


def survivors(kinds: Tensor, kept_free: Tensor) -> Tensor:
    """int64 [K], ascending: positions of the sequence that stay.

    Args:
        kinds: [L], the `TokenKind` of each position.
        kept_free: bool [P], which of the free tokens stay.

    Newlines and separators stay, but of newlines that have become neighbours only the first.
    """
    stays = kinds != TokenKind.FREE
    stays[~stays] = kept_free
    positions = stays.nonzero().squeeze(1)
    newline = kinds[positions] == TokenKind.NEWLINE
    repeated = torch.zeros_like(newline)
    repeated[1:] = newline[1:] & newline[:-1]
    return positions[~repeated]
