"""One image's visual sequence pruned: ratio, selection, merge, newlines, positions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtprune.pruning import together, tokens
from rtprune.pruning.layout import TokenLayout
from rtprune.pruning.methods import MERGES, METHODS, SCORES, MergeName, ScoreName
from rtprune.pruning.ratio import density, similarity
from rtprune.pruning.selection import kept_count, survivors
from rtprune.pruning.tokens import Cues, FreeTokens
from rtprune.pruning.transport import SOLVERS, Solver


@dataclass(frozen=True)
class PruneConfig:
    """How to prune. The defaults are the paper's.

    Attributes:
        ratio: share of the free tokens to prune, 0..1, or "dynamic": similarity * (1 - density).
        method: "rtprune"; a rival to compare it with: "random", "divprune", "cdpruner" or "visionzip"; or a method that
            another package adds.
        score: by which "rtprune" keeps tokens: "l2-norm" (the paper's), "variance" or "entropy".
        merge: what "rtprune" does with the others: "transport" (the paper's), "none", or "nearest", the average with
            the kept token that each resembles most.
        threshold: Sobel magnitude on a view in [-1, 1] above which a pixel is an edge (tau).
        dustbin: score of any token with the dustbin (z).
        regularisation: strength of the transport's entropy term.
        alpha: weight of dropped tokens in the kept ones they merge into.
        solver: of the transport: "scaling" (fast), or "pot" (POT's, the reference; equal to 1e-6).
        seed: what "random" draws from.

    Raises:
        ValueError: a field is outside what it accepts.
        PluginError: another package's method cannot be used.
    """

    ratio: Literal["dynamic"] | float = "dynamic"
    method: str = "rtprune"
    score: ScoreName = "l2-norm"
    merge: MergeName = "transport"
    threshold: float = 0.2
    dustbin: float = 0.2
    regularisation: float = 1.0
    alpha: float = 0.1
    solver: Solver = "scaling"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio != "dynamic" and not (_is_finite(self.ratio) and 0.0 <= float(self.ratio) <= 1.0):
            raise ValueError(f"ratio must be 'dynamic' or a number from 0 to 1, got {self.ratio!r}")
        for name in ("threshold", "dustbin", "alpha"):
            if not _is_finite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}")
        if not _is_finite(self.regularisation) or self.regularisation <= 0:
            raise ValueError(f"regularisation must be a finite number above 0, got {self.regularisation!r}")
        for name, valid in (("method", METHODS), ("score", SCORES), ("merge", MERGES), ("solver", SOLVERS)):
            given = getattr(self, name)
            if not isinstance(given, str) or given not in valid:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, valid))}, got {given!r}")
        _ = METHODS[self.method]  # a broken one is refused here, before any page
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")


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


@dataclass(frozen=True, eq=False)
class _Begun:
    """An image for which the device is still computing what its length after pruning depends on.

    Attributes:
        tokens: the free ones of the features.
        numbers: float64 [3 + P]: sum of the features (finite only if all of them are), similarity, density (finite only
            if the view is), and the free tokens' indices, from the token most worth keeping to the least.
    """

    features: Tensor
    layout: TokenLayout
    tokens: FreeTokens
    numbers: Tensor


def prune(
    features: Tensor,
    layout: TokenLayout,
    view: Tensor | None = None,
    config: PruneConfig | None = None,
    cues: Cues | None = None,
) -> Pruned:
    """Prune the visual tokens of one image.

    Args:
        features: [L, D] floating point, the embeddings between projector and decoder, in prompt order.
        layout: which of the L positions are free tokens.
        view: the global view normalised to [-1, 1], of shape ``layout.view_shape``; needed by a dynamic ratio only.
        config: how to prune; the paper's dynamic pruning when absent.
        cues: what some methods ("cdpruner", "visionzip") need in addition to the features.

    Returns:
        The surviving tokens with their original positions. If nothing is dropped, these are the features as given; if
        every free token is dropped, newlines and separators remain.

    Raises:
        ValueError: an argument does not fit; the message says which, what was given and what is accepted.

    Tokens merge in float32 whatever the dtype, and the result is rounded to that dtype once. Source: RTPrune
    (arXiv 2605.00392).
    """
    return prune_batch([features], [layout], [view], config, [cues])[0]


@torch.no_grad()
def prune_batch(
    features: Sequence[Tensor],
    layouts: Sequence[TokenLayout],
    views: Sequence[Tensor | None] | None = None,
    config: PruneConfig | None = None,
    cues: Sequence[Cues | None] | None = None,
) -> list[Pruned]:
    """Prune several images of any layouts, each as `prune` does; arguments and errors as there.

    All images are on one device. It is waited for once, as the lengths after pruning depend on the images. On a CPU
    each image's result is the same, bit for bit, in any company; on a GPU images of one layout are padded to one size,
    and sums may round otherwise: the same tokens stay, with features that are equal to rounding.
    """
    config = PruneConfig() if config is None else config
    views = [None] * len(features) if views is None else views
    cues = [None] * len(features) if cues is None else cues
    if not len(features) == len(layouts) == len(views) == len(cues):
        raise ValueError(
            f"there must be as many layouts, views and cues as features, got {len(features)} features, "
            f"{len(layouts)} layouts, {len(views)} views, {len(cues)} cues"
        )
    if not features:
        return []
    if together.can_prune(config) and _device(features) not in tokens.CACHED:
        return _together(features, layouts, views, config)
    begun = [_begin(*image, config) for image in zip(features, layouts, views, cues, strict=True)]
    sizes = [one.numbers.numel() for one in begun]
    numbers = torch.split(torch.cat([one.numbers for one in begun]).cpu(), sizes)  # the only wait for the device
    return [_finish(one, known, config) for one, known in zip(begun, numbers, strict=True)]


def _together(
    features: Sequence[Tensor],
    layouts: Sequence[TokenLayout],
    views: Sequence[Tensor | None],
    config: PruneConfig,
) -> list[Pruned]:
    """Images that are alike in one pass."""
    groups: dict[Hashable, list[int]] = {}
    for index, (mine, layout) in enumerate(zip(features, layouts, strict=True)):
        _check_features(mine, layout)
        groups.setdefault((layout, mine.shape, mine.dtype), []).append(index)
    begun = []
    for indices in groups.values():
        layout = layouts[indices[0]]
        needed = [_checked_view(views[index], layout) if config.ratio == "dynamic" else None for index in indices]
        begun.append(together.begin([features[index] for index in indices], layout, needed, config))
    sizes = [images.numbers.numel() for images in begun]
    known = torch.split(torch.cat([images.numbers.flatten() for images in begun]).cpu(), sizes)  # the only wait
    found: dict[int, Pruned] = {}
    for indices, images, numbers in zip(groups.values(), begun, known, strict=True):
        given = [features[index] for index in indices]
        found |= zip(indices, _selected(given, images, numbers.view(images.numbers.shape).numpy(), config), strict=True)
    return [found[index] for index in range(len(features))]


def _device(features: Sequence[Tensor]) -> str:
    """The kind of device that the features are on; a CPU's where what is given are none."""
    return features[0].device.type if isinstance(features[0], Tensor) else "cpu"


def _selected(
    given: Sequence[Tensor], images: together.Images, numbers: NDArray[np.float64], config: PruneConfig
) -> list[Pruned]:
    """Images of the ``given`` features whose ``numbers`` are known, on the CPU."""
    dynamic, layout = config.ratio == "dynamic", images.layout
    for mine, row in zip(given, numbers, strict=True):
        _require_finite(mine, layout, row[together.SUM], row[together.DENSITY] if dynamic else None)
    ratios, counts = together.ratios_and_counts(numbers, config)
    selected = together.select(layout, numbers[:, together.ORDER :].astype(np.int64), counts)
    lengths = [len(one.positions) for one in selected]
    pruned = list(given)
    if any(length < layout.length for length in lengths):
        pruned = list(torch.split(together.merge(images, numbers, selected, config), lengths))
    positions = torch.from_numpy(np.concatenate([one.positions for one in selected])).to(given[0].device)
    return [
        Pruned(
            mine if length == layout.length else left,
            where,
            PruneFacts(
                similarity=float(row[together.SIMILARITY]) if dynamic else None,
                density=float(row[together.DENSITY]) if dynamic else None,
                ratio=ratio,
                tokens_before=layout.length,
                tokens_after=length,
                free_before=numbers.shape[1] - together.ORDER,
                free_after=count,
            ),
        )
        for mine, left, where, row, ratio, count, length in zip(
            given, pruned, torch.split(positions, lengths), numbers, ratios, counts, lengths, strict=True
        )
    ]


def _begin(
    features: Tensor, layout: TokenLayout, view: Tensor | None, cues: Cues | None, config: PruneConfig
) -> _Begun:
    """Start all the computing that the length after pruning depends on, without waiting for the device."""
    _check_features(features, layout)
    free_positions = layout.free.nonzero().squeeze(1).to(features.device)
    tokens = FreeTokens(features.index_select(0, free_positions), _checked_cues(cues, layout, features, config))
    nothing = features.new_zeros((), dtype=torch.float64)
    similar, dense = nothing, nothing
    if config.ratio == "dynamic":
        view = _checked_view(view, layout)
        similar, dense = similarity(tokens.cosines), density(view, config.threshold, layout.patch)
    measured = torch.stack([features.sum().double(), similar, dense.to(similar.device)])
    order = METHODS[config.method].order(tokens, config)
    if order.shape != (layout.free_count,):
        raise ValueError(
            f"the method {config.method!r} must order all {layout.free_count} free tokens, "
            f"got an order of shape {list(order.shape)}"
        )
    return _Begun(features, layout, tokens, torch.cat([measured, order.double()]))


def _finish(begun: _Begun, numbers: Tensor, config: PruneConfig) -> Pruned:
    """Prune an image whose ``numbers`` are known, on the CPU."""
    features_sum, similar, dense = numbers[:3].tolist()
    dynamic = config.ratio == "dynamic"
    _require_finite(begun.features, begun.layout, features_sum, dense if dynamic else None)
    ratio = similar * (1.0 - dense) if dynamic else float(config.ratio)
    order = numbers[3:].long()
    free_count, length = len(order), begun.layout.length
    count = kept_count(free_count, ratio)
    positions, result = torch.arange(length), begun.features
    if count < free_count:
        kept_free, merged = _kept(begun.tokens, order, count, config)
        positions = survivors(begun.layout.kinds, kept_free)
        result = _surviving(begun, positions, merged)
    facts = PruneFacts(
        similarity=similar if dynamic else None,
        density=dense if dynamic else None,
        ratio=ratio,
        tokens_before=length,
        tokens_after=positions.numel(),
        free_before=free_count,
        free_after=count,
    )
    return Pruned(result, positions.to(result.device), facts)


def _kept(tokens: FreeTokens, order: Tensor, count: int, config: PruneConfig) -> tuple[Tensor, Tensor | None]:
    """bool [P] on the CPU, which of the free tokens stay; and what they carry, [M, D], unless none does."""
    kept_free = torch.zeros(len(order), dtype=torch.bool)
    if not count:
        return kept_free, None
    kept, merged = METHODS[config.method].keep(tokens, order, count, config)
    kept_free[kept] = True
    if int(kept_free.sum()) != count or merged.shape != (count, tokens.features.shape[1]):
        raise ValueError(
            f"the method {config.method!r} must keep {count} different tokens and give each its features, "
            f"got {int(kept_free.sum())} tokens and features of shape {list(merged.shape)}"
        )
    return kept_free, merged


def _surviving(begun: _Begun, positions: Tensor, merged: Tensor | None) -> Tensor:
    """Features [K, D] at the ``positions`` [K], of which the free tokens are ``merged`` [M, D]."""
    features = begun.features
    surviving = features.index_select(0, positions.to(features.device))
    if merged is not None:
        # what a merge makes too large for a short dtype becomes its largest number, not an infinity
        limit = torch.finfo(features.dtype).max
        where = begun.layout.free[positions].nonzero().squeeze(1).to(features.device)
        surviving.index_copy_(0, where, merged.clamp(-limit, limit).to(features.dtype))
    return surviving


def _check_features(features: Tensor, layout: TokenLayout) -> None:
    if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
        given = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a floating point tensor of shape [L, D], got {given}")
    if features.shape[0] != layout.length or features.shape[1] == 0:
        raise ValueError(
            f"features must have shape [{layout.length}, D] with D >= 1 to fit the layout, got {tuple(features.shape)}"
        )


def _require_finite(features: Tensor, layout: TokenLayout, features_sum: float, dense: float | None) -> None:
    """A finite sum shows at little cost that all features are finite; any other may be an overflow and is checked."""
    if not math.isfinite(features_sum) and not bool(features.isfinite().all()):
        bad = int((~features.isfinite()).any(dim=-1).sum())
        raise ValueError(f"features must be finite, got NaN or infinity in {bad} of {layout.length} tokens")
    if dense is not None and not math.isfinite(dense):
        raise ValueError("view must be finite and in [-1, 1], got NaN, infinity or numbers near it")


def _checked_view(view: Tensor | None, layout: TokenLayout) -> Tensor:
    shape = layout.view_shape
    if view is None:
        raise ValueError(f"view must be given for a dynamic ratio: the normalised global view, {list(shape)}")
    if not isinstance(view, Tensor) or tuple(view.shape) != shape or not view.is_floating_point():
        given = f"{view.dtype} {tuple(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
        raise ValueError(f"view must be a floating point tensor of shape {list(shape)}, got {given}")
    return view


def _checked_cues(cues: Cues | None, layout: TokenLayout, features: Tensor, config: PruneConfig) -> Cues:
    """The cues that the method needs, of shapes that fit, on the features' device."""
    count, width = layout.free_count, features.shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "prompt": (None, width),
        "attention": (count,),
        "keys": (count, None),
    }
    checked = {}
    for name, shape in shapes.items():
        given = getattr(cues, name, None)
        if given is None:
            if name in METHODS[config.method].needs:
                raise ValueError(f"cues.{name} must be given for the method {config.method!r}, got None")
            continue
        fits = (
            isinstance(given, Tensor) and given.is_floating_point() and given.ndim == len(shape) and given.numel() > 0
        )
        if not fits or any(side not in (None, size) for side, size in zip(shape, given.shape, strict=True)):
            wanted = "[" + ", ".join("any" if side is None else str(side) for side in shape) + "]"
            got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"cues.{name} must be a floating point tensor of shape {wanted}, got {got}")
        if not bool(given.isfinite().all()):
            raise ValueError(f"cues.{name} must be finite, got NaN or infinity")
        checked[name] = given.to(features.device)
    return Cues(**checked)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
