"""One image's visual sequence pruned: ratio, selection, merge, newlines, positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rtprune.pruning.layout import TokenLayout
from rtprune.pruning.ratio import PATCH, density, l2_norms, similarity, unit_tokens
from rtprune.pruning.selection import kept_count, select, survivors
from rtprune.pruning.transport import SOLVERS, Solver, merge


@dataclass(frozen=True)
class PruneConfig:
    """How to prune. The defaults are the paper's.

    Attributes:
        ratio: share of the free tokens to prune, 0..1, or "dynamic": similarity * (1 - density).
        threshold: Sobel magnitude on a view in [-1, 1] above which a pixel is an edge (tau).
        dustbin: score of any token with the dustbin (z).
        regularisation: strength of the transport's entropy term.
        alpha: weight of dropped tokens in the kept ones they merge into.
        solver: of the transport: "scaling" (fast), or "pot" (POT's, the reference; equal to 1e-6).

    Raises:
        ValueError: a field is outside what it accepts.
    """

    ratio: Literal["dynamic"] | float = "dynamic"
    threshold: float = 0.2
    dustbin: float = 0.2
    regularisation: float = 1.0
    alpha: float = 0.1
    solver: Solver = "scaling"

    def __post_init__(self) -> None:
        if self.ratio != "dynamic" and not (_is_finite(self.ratio) and 0.0 <= float(self.ratio) <= 1.0):
            raise ValueError(f"ratio must be 'dynamic' or a number from 0 to 1, got {self.ratio!r}")
        for name in ("threshold", "dustbin", "alpha"):
            if not _is_finite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}")
        if not _is_finite(self.regularisation) or self.regularisation <= 0:
            raise ValueError(f"regularisation must be a finite number above 0, got {self.regularisation!r}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, got {self.solver!r}")


@dataclass(frozen=True)
class PruneFacts:
    """What pruning one image did.

    Attributes:
        similarity: mean squared cosine of the free tokens, 0..1; absent with a fixed ratio.
        density: share of the view's pixels with an edge, 0..1; absent with a fixed ratio.
        ratio: pruned share r of the free tokens that was asked for, 0..1.
        tokens_before: length L of the whole visual sequence: free tokens, newlines and separators.
        tokens_after: length K of what is left of it.
        free_before: number P of free tokens.
        free_after: number M of free tokens that stay.
    """

    similarity: float | None
    density: float | None
    ratio: float
    tokens_before: int
    tokens_after: int
    free_before: int
    free_after: int


@dataclass(frozen=True)
class Pruned:
    """A pruned visual sequence.

    Attributes:
        features: [K, D], dtype and device of what was given.
        positions: int64 [K], ascending: where each token stood in the unpruned sequence, counted from 0.
        facts: what was done.
    """

    features: Tensor
    positions: Tensor
    facts: PruneFacts


def prune(
    features: Tensor, layout: TokenLayout, view: Tensor | None = None, config: PruneConfig | None = None
) -> Pruned:
    """Prune the visual tokens of one image.

    Args:
        features: [L, D] floating point, the embeddings between projector and decoder, in prompt order.
        layout: which of the L positions are free tokens.
        view: [3, 64 g, 64 g] with g = ``layout.grid``, the global view normalised to [-1, 1]; needed by
            a dynamic ratio only.
        config: how to prune; the paper's dynamic pruning when absent.

    Returns:
        The surviving tokens with their original positions. Where nothing is to be dropped the features come back as
        they were given. Where every free token is, newlines and separators remain.

    Raises:
        ValueError: an argument does not fit; the message says which, what was given and what is accepted.

    Tokens merge in float32 whatever the dtype, and the result is rounded to that dtype once. Source: RTPrune
    (arXiv 2605.00392).
    """
    config = PruneConfig() if config is None else config
    _check_features(features, layout)
    kinds = layout.kinds.to(features.device)
    free_positions = layout.free.to(features.device).nonzero().squeeze(1)
    free = features[free_positions]
    free_count = free.shape[0]

    units = unit_tokens(free)
    cosines: Tensor | None = None
    similar: float | None = None
    dense: float | None = None
    if isinstance(config.ratio, str):
        cosines = units @ units.T
        similar = float(similarity(cosines))
        dense = float(density(_checked_view(view, layout), config.threshold))
        ratio = similar * (1.0 - dense)
    else:
        ratio = float(config.ratio)

    count = kept_count(free_count, ratio)
    kept = select(l2_norms(free), count)
    if count == free_count:
        positions = torch.arange(layout.length, device=features.device)
        result = features
    else:
        positions = survivors(kinds, kept)
        result = features
        if count:
            scores = units[kept] @ units[~kept].T if cosines is None else cosines[kept][:, ~kept]
            result = _with_merged(features, free, free_positions, kept, scores, config)
        result = result[positions]
    facts = PruneFacts(similar, dense, ratio, layout.length, positions.numel(), free_count, count)
    return Pruned(result, positions, facts)


def _with_merged(
    features: Tensor, free: Tensor, free_positions: Tensor, kept: Tensor, scores: Tensor, config: PruneConfig
) -> Tensor:
    """``features`` [L, D] with the dropped free tokens merged into the kept ones."""
    merged = merge(free[kept], free[~kept], scores, config.dustbin, config.regularisation, config.alpha, config.solver)
    # A sum beyond the range of a short dtype becomes its largest number, not an infinity.
    limit = torch.finfo(features.dtype).max
    return features.index_copy(0, free_positions[kept], merged.clamp(-limit, limit).to(features.dtype))


def _check_features(features: Tensor, layout: TokenLayout) -> None:
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        given = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a floating point tensor of shape [L, D], got {given}")
    if features.shape[0] != layout.length or features.shape[1] == 0:
        raise ValueError(
            f"features must have shape [{layout.length}, D] with D >= 1 to fit the layout, got {tuple(features.shape)}"
        )
    if not _all_finite(features):
        bad = int((~features.isfinite()).any(dim=-1).sum())
        raise ValueError(f"features must be finite, got NaN or infinity in {bad} of {layout.length} tokens")


def _checked_view(view: Tensor | None, layout: TokenLayout) -> Tensor:
    side = PATCH * layout.grid
    if view is None:
        raise ValueError(f"view must be given for a dynamic ratio: the normalised global view, [3, {side}, {side}]")
    if not isinstance(view, Tensor) or tuple(view.shape) != (3, side, side) or not view.is_floating_point():
        given = f"{view.dtype} {tuple(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
        raise ValueError(f"view must be a floating point tensor of shape [3, {side}, {side}], got {given}")
    if not _all_finite(view):
        raise ValueError("view must be finite, got NaN or infinity")
    return view


def _all_finite(values: Tensor) -> bool:
    """A sum is finite only where all of it is, and many times cheaper than looking at each; but it may overflow."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
