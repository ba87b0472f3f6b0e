"""Merging what is dropped into what is kept, by entropic optimal transport with a dustbin."""

from __future__ import annotations

import ot
import torch
from torch import Tensor

_TOLERANCE = 1e-9
_MAX_ITERATIONS = 1000


def transport_plan(scores: Tensor, dustbin: float, regularisation: float) -> Tensor:
    """Plan T of shape [M, N] for the scores [M, N] between kept and dropped tokens: float64.

    Scores are augmented by a dustbin row and column; marginals are [1]*M + [N] and [1]*N + [M]. Solved by POT in the
    log domain, in float64 until the marginals hold to 1e-9, which with scores in [-1, 1] takes some ten steps;
    the plan is the one that the published 100 fixed steps reach.
    """
    kept, dropped = scores.shape
    augmented = scores.new_full((kept + 1, dropped + 1), dustbin, dtype=torch.float64)
    augmented[:kept, :dropped] = scores
    row_mass = augmented.new_ones(kept + 1)
    row_mass[-1] = dropped
    column_mass = augmented.new_ones(dropped + 1)
    column_mass[-1] = kept
    plan: Tensor = ot.sinkhorn(
        row_mass,
        column_mass,
        -augmented,
        regularisation,
        method="sinkhorn_log",
        stopThr=_TOLERANCE,
        numItermax=_MAX_ITERATIONS,
    )
    return plan[:kept, :dropped]


def merge(kept: Tensor, dropped: Tensor, scores: Tensor, dustbin: float, regularisation: float, alpha: float) -> Tensor:
    """``kept_i + alpha * sum_j T_ij dropped_j``: float32 [M, D].

    Args:
        kept: [M, D], M >= 1.
        dropped: [N, D], N >= 1.
        scores: [M, N], cosines between them.
        dustbin: score z of a token with the dustbin.
        regularisation: strength of the entropy term.
        alpha: weight of what is merged.
    """
    plan = transport_plan(scores, dustbin, regularisation).float()
    return torch.addmm(kept.float(), plan, dropped.float(), alpha=alpha)
