"""RTPrune of many images of one layout in one pass: what a GPU is given to do does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtprune.pruning import tokens
from rtprune.pruning.layout import TokenKind, TokenLayout
from rtprune.pruning.methods import SCORES
from rtprune.pruning.ratio import densities, density, l2_norms
from rtprune.pruning.selection import kept_count
from rtprune.pruning.tokens import gram, unit_tokens
from rtprune.pruning.transport import WIDEST, enough_steps, scaled_plans

if TYPE_CHECKING:
    from rtprune.pruning.sequence import PruneConfig

Indices = NDArray[np.int64]
#: Relative error of a plan's entries. A row's entries add up to 1 at most: merged features are off by that much of a
#: dropped token, times alpha, which float32 does not show.
_TOLERANCE = 1e-8
SUM, SIMILARITY, DENSITY, LOWEST, HIGHEST, ORDER = range(6)  # columns of what is known of an image


@dataclass(frozen=True, eq=False)
class Images:
    """B images of one layout for which the device is still computing what their lengths after pruning depend on.

    Attributes:
        features: [B, L, D].
        free: [B, P, D], their free tokens.
        cosines: float32 [B, P, P] between these.
        numbers: float64 [B, 5 + P]: sum of the features, similarity, density, least and greatest cosine of two
            tokens, and the free tokens' indices, from the token most worth keeping to the least.
    """

    layout: TokenLayout
    features: Tensor
    free: Tensor
    cosines: Tensor
    numbers: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """Which tokens of one image stay.

    Attributes:
        kept: indices of the free tokens that stay, ascending, [M].
        dropped: those of the others, ascending, [N].
        positions: of the sequence that stay, ascending, [K].
    """

    kept: Indices
    dropped: Indices
    positions: Indices


def begin(
    features: Sequence[Tensor], layout: TokenLayout, views: Sequence[Tensor | None], config: PruneConfig
) -> Images:
    """Start all the computing that lengths after pruning depend on, without waiting for the device.

    Args:
        features: [L, D] of each image.
        views: the global view of each, float [3, H, W] in [-1, 1]; ``None`` where the ratio is fixed.
    """
    whole = torch.stack(list(features)) if len(features) > 1 else features[0][None]
    free = whole.index_select(1, _free_positions(layout, whole.device))
    scores = SCORES[config.score](free.flatten(0, 1)) if config.score != "l2-norm" else l2_norms(free)
    order = torch.sort(scores.view(free.shape[:2]), dim=1, descending=True, stable=True).indices
    cosines = gram(unit_tokens(free))
    count = free.shape[1]
    pairs = max(1, count * (count - 1))
    cosines.diagonal(dim1=1, dim2=2).zero_()
    similar = cosines.square().sum(dim=(1, 2), dtype=torch.float64).div_(pairs).clamp_(0.0, 1.0)
    known = [whole.sum(dim=(1, 2), dtype=torch.float64), similar, *_edges(views, similar, layout, config)]
    known += cosines.flatten(1).aminmax(dim=1)
    return Images(layout, whole, free, cosines, torch.cat([torch.stack(known, dim=1), order], dim=1))


def select(layout: TokenLayout, order: Indices, counts: Sequence[int]) -> list[Selection]:
    """Which tokens stay of images of which the first M of each ``order`` [B, P] are kept, M from the ``counts``."""
    kinds = layout.kinds.numpy()
    found = []
    for ranked, count in zip(order, counts, strict=True):
        kept_free = np.zeros(len(ranked), dtype=bool)
        kept_free[ranked[:count]] = True
        found.append(Selection(kept_free.nonzero()[0], (~kept_free).nonzero()[0], _survivors(kinds, kept_free)))
    return found


def merge(images: Images, numbers: NDArray[np.float64], selected: Sequence[Selection], config: PruneConfig) -> Tensor:
    """Surviving features of all images, one behind the other, [K_1 + ... + K_B, D].

    Kept tokens have the dropped ones merged into them: ``kept_i + alpha sum_j T_ij dropped_j``, T the transport plan.
    """
    features, device = images.features, images.features.device
    kept, dropped = (_padded([getattr(one, name) for one in selected]) for name in ("kept", "dropped"))
    which = torch.from_numpy(np.concatenate([kept, dropped], axis=1)).to(device, non_blocking=True)
    chosen = images.free.gather(1, which[..., None].expand(-1, -1, features.shape[2])).float()
    most = kept.shape[1]
    rows, columns = which[:, :most], which[:, most:]
    image = torch.arange(len(which), device=device)[:, None, None]
    scores = images.cosines[image, rows[:, :, None], columns[:, None]].double()
    row_masses = _masses([(len(one.kept), len(one.dropped)) for one in selected], most)
    column_masses = _masses([(len(one.dropped), len(one.kept)) for one in selected], dropped.shape[1])
    top = max(config.dustbin, float(numbers[:, HIGHEST].max()))
    bottom = min(config.dustbin, float(numbers[:, LOWEST].min()))
    plans = scaled_plans(
        scores,
        row_masses.to(device, non_blocking=True),
        column_masses.to(device, non_blocking=True),
        config.dustbin,
        config.regularisation,
        top=top,
        steps=enough_steps((top - bottom) / config.regularisation, _TOLERANCE),
    )
    merged = torch.baddbmm(chosen[:, :most], plans.float(), chosen[:, most:], alpha=config.alpha)
    # what a merge makes too large for a short dtype becomes its largest number, not an infinity
    limit = min(torch.finfo(features.dtype).max, torch.finfo(merged.dtype).max)
    merged = merged.clamp(-limit, limit).to(features.dtype)
    source = torch.cat([features.flatten(0, 1), merged.flatten(0, 1)])
    return source.index_select(0, _sources(images, most, selected).to(device, non_blocking=True))


def can_prune(config: PruneConfig) -> bool:
    """Whether ``config`` asks for this: RTPrune, whose transport plain scaling solves whatever the scores."""
    spread = max(1.0, config.dustbin) - min(-1.0, config.dustbin)
    ours = (config.method, config.merge, config.solver) == ("rtprune", "transport", "scaling")
    return ours and spread / config.regularisation <= WIDEST


def ratios_and_counts(numbers: NDArray[np.float64], config: PruneConfig) -> tuple[list[float], list[int]]:
    """Of each image: the ratio, and how many free tokens stay."""
    if config.ratio == "dynamic":
        ratios = (numbers[:, SIMILARITY] * (1.0 - numbers[:, DENSITY])).tolist()
    else:
        ratios = [float(config.ratio)] * len(numbers)
    return ratios, [kept_count(numbers.shape[1] - ORDER, ratio) for ratio in ratios]


def _edges(views: Sequence[Tensor | None], like: Tensor, layout: TokenLayout, config: PruneConfig) -> list[Tensor]:
    """float64 [B]: density of each view; zeros where there is none."""
    given = [view for view in views if view is not None]
    if not given:
        return [torch.zeros_like(like)]
    if given[0].device.type in tokens.CACHED:
        found = [density(view, config.threshold, layout.patch) for view in given]
        return [torch.stack(found).to(like.device)]
    return [densities(torch.stack(given), config.threshold, layout.patch)]


def _survivors(kinds: NDArray[np.uint8], kept_free: NDArray[np.bool_]) -> Indices:
    """As `rtprune.pruning.selection.survivors`."""
    stays = kinds != TokenKind.FREE
    stays[~stays] = kept_free
    positions = stays.nonzero()[0]
    newline = kinds[positions] == TokenKind.NEWLINE
    repeated = np.zeros(len(newline), dtype=bool)
    repeated[1:] = newline[1:] & newline[:-1]
    stay: Indices = positions[~repeated]
    return stay


def _masses(counts: Sequence[tuple[int, int]], most: int) -> Tensor:
    """float64 [B, most + 1]: marginals of each image's tokens and of the dustbin, which can take all others.

    Args:
        counts: of each image, how many tokens there are on this side, and how many on the other.
    """
    masses = np.zeros((len(counts), most + 1))
    for row, (mine, others) in zip(masses, counts, strict=True):
        row[:mine], row[-1] = 1.0, others
    return torch.from_numpy(masses)


def _padded(indices: Sequence[Indices]) -> Indices:
    """[B, longest]: padded with zeros."""
    padded = np.zeros((len(indices), max(map(len, indices))), dtype=np.int64)
    for row, mine in zip(padded, indices, strict=True):
        row[: len(mine)] = mine
    return padded


def _sources(images: Images, most: int, selected: Sequence[Selection]) -> Tensor:
    """int64 [K_1 + ...]: the row of each survivor in the features of all images, behind which the merged ones stand."""
    count, length = images.features.shape[:2]
    is_free = images.layout.free.numpy()
    place = np.cumsum(is_free) - 1  # of a free token among its image's
    found = []
    for number, one in enumerate(selected):
        free = is_free[one.positions]
        rows = number * length + one.positions
        rows[free] = count * length + number * most + np.searchsorted(one.kept, place[one.positions[free]])
        found.append(rows)
    return torch.from_numpy(np.concatenate(found))


@lru_cache(maxsize=64)
def _free_positions(layout: TokenLayout, device: torch.device) -> Tensor:
    return layout.free.nonzero().squeeze(1).to(device)
