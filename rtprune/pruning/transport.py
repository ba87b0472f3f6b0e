"""Merges dropped tokens into kept ones, by entropic optimal transport with a dustbin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Solver = Literal["scaling", "pot"]

_TOLERANCE = 1e-9  # largest error of a marginal, of which the smallest is 1
_MAX_ITERATIONS = 1000
WIDEST = 16.0  # range of exponents within which scaling converges soon; wider ones are left to the log domain


def transport_plan(scores: Tensor, dustbin: float, regularisation: float, solver: Solver = "scaling") -> Tensor:
    """Plan T of shape [M, N] for the scores [M, N] between kept and dropped tokens: float64.

    Scores are augmented by a dustbin row and column; marginals are [1]*M + [N] and [1]*N + [M]. Solved in float64
    until the marginals hold to 1e-9, which takes some ten steps for scores in [-1, 1]. The published 100 fixed steps
    reach the same plan.

    Args:
        scores: [M, N], in [-1, 1].
        dustbin: score z of a token with the dustbin.
        regularisation: strength of the entropy term, above 0.
        solver: "scaling" (ours) or "pot" (POT's log-domain solver, the reference).
    """
    return SOLVERS[solver](scores, dustbin, regularisation)


def by_scaling(scores: Tensor, dustbin: float, regularisation: float) -> Tensor:
    """Sinkhorn's scaling of exp(score / regularisation), the dustbin kept apart from the matrix.

    Scores are cosines, so exponents are small and the log domain is not needed. Where a small regularisation makes them
    large, POT's solver is used instead.
    """
    top, bottom = max(1.0, dustbin), min(-1.0, dustbin)
    spread = (top - bottom) / regularisation
    if spread > WIDEST:
        return by_pot(scores, dustbin, regularisation)
    kernel = scores.double().sub_(top).div_(regularisation).exp_()
    bin_kernel = math.exp((dustbin - top) / regularisation)
    # looking at a GPU's result would mean waiting for it: there, take as many steps as any scores can need
    return _scaled(kernel, bin_kernel, enough_steps(spread), watch=not scores.is_cuda)


def _scaled(kernel: Tensor, bin_kernel: float, steps: int, *, watch: bool) -> Tensor:
    """``kernel`` [M, N] scaled to its marginals: ``steps`` times, or with ``watch`` until it has converged."""
    kept, dropped = kernel.shape
    columns = kernel.new_ones(dropped)
    bin_column = kernel.new_ones(())
    row_sums = kernel @ columns + bin_kernel * bin_column
    for _ in range(steps):
        rows = 1.0 / row_sums
        bin_row = dropped / (bin_kernel * (columns.sum() + bin_column))
        columns = 1.0 / (rows @ kernel + bin_kernel * bin_row)
        bin_column = kept / (bin_kernel * (rows.sum() + bin_row))
        row_sums = kernel @ columns + bin_kernel * bin_column
        if watch and float((rows * row_sums - 1.0).abs().max()) < _TOLERANCE:
            break
    return rows[:, None] * kernel * columns


def by_pot(scores: Tensor, dustbin: float, regularisation: float) -> Tensor:
    """POT's solver in the log domain."""
    import ot  # here, because it loads all of SciPy's statistics, and the solver is seldom asked for

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


SOLVERS: dict[Solver, Callable[[Tensor, float, float], Tensor]] = {"scaling": by_scaling, "pot": by_pot}


def scaled_plans(
    scores: Tensor,
    row_masses: Tensor,
    column_masses: Tensor,
    dustbin: float,
    regularisation: float,
    *,
    top: float,
    steps: int,
) -> Tensor:
    """Plans of B images at once: float64 [B, M, N], zero where an image is padded.

    Args:
        scores: float64 [B, M, N]; any numbers where an image is padded. It is overwritten.
        row_masses: float64 [B, M + 1], 0 where an image is padded; the dustbin's last.
        column_masses: float64 [B, N + 1], likewise.
        top: the largest score, to keep exponents from growing.
        steps: of scaling, see `enough_steps`.
    """
    exponents = functional.pad(scores, (0, 1, 0, 1), value=dustbin)
    kernel = exponents.sub_(top).div_(regularisation).exp_()
    # what is padded has no mass: it is scaled by zero, and takes no part in any sum
    turned, row_masses, column_masses = kernel.mT, row_masses[..., None], column_masses[..., None]
    columns = (column_masses > 0).double()
    for _ in range(steps):
        rows = row_masses / (kernel @ columns)
        columns = column_masses / (turned @ rows)
    plan: Tensor = (kernel[:, :-1, :-1] * rows[:, :-1]).mul_(columns[:, :-1].mT)
    return plan


def enough_steps(spread: float, tolerance: float = _TOLERANCE) -> int:
    """Steps after which Sinkhorn's scaling has converged whatever the scores in a range of ``spread``.

    Each step brings the scalings nearer to their limit by tanh(spread / 2)^2 in Hilbert's metric, where they start at
    most 2 spread away (Franklin and Lorenz, 1989).
    """
    rate = math.tanh(spread / 2.0) ** 2
    if rate == 0.0:
        return 1
    return max(1, min(_MAX_ITERATIONS, math.ceil(math.log(tolerance / (2.0 * spread)) / math.log(rate))))


def merge(
    kept: Tensor,
    dropped: Tensor,
    scores: Tensor,
    dustbin: float,
    regularisation: float,
    alpha: float,
    solver: Solver = "scaling",
) -> Tensor:
    """``kept_i + alpha * sum_j T_ij dropped_j``: float32 [M, D].

    Args:
        kept: [M, D], M >= 1.
        dropped: [N, D], N >= 1.
        scores: [M, N], cosines between them.
        dustbin: score z of a token with the dustbin.
        regularisation: strength of the entropy term.
        alpha: weight of what is merged.
        solver: see ``transport_plan``.
    """
    plan = transport_plan(scores, dustbin, regularisation, solver).float()
    return torch.addmm(kept.float(), plan, dropped.float(), alpha=alpha)
