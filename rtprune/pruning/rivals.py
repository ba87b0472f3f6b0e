"""The methods that RTPrune is compared with, each as its own paper has it."""

from __future__ import annotations

import torch
from torch import Tensor

from rtprune.pruning.selection import by_score
from rtprune.pruning.tokens import FreeTokens, unit_tokens

CONTEXTUAL_SHARE = 10 / 64
"""VisionZip's share of contextual tokens among those kept: 54 dominant and 10 contextual of 64 in its paper."""

_EXHAUSTED = 1e-10


def at_random(tokens: FreeTokens, seed: int) -> Tensor:
    """int64 [P]: an order drawn by ``seed`` alone, the same on every device."""
    count = len(tokens.features)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return drawn.to(tokens.features.device)


def by_diversity(tokens: FreeTokens) -> Tensor:
    """DivPrune's greedy solution of the max-min diversity problem: int64 [P], in the order of choice.

    First the token whose nearest other is farthest; then always the one whose nearest chosen is farthest; ties go to
    the earlier token. Distance is 1 - cosine. Source: DivPrune (arXiv 2503.02175), algorithm 1.
    """
    distances = 1.0 - _wide_cosines(tokens.features)
    count = len(distances)
    order = torch.empty(count, dtype=torch.int64, device=distances.device)
    if not count:
        return order
    others = distances.clone().fill_diagonal_(torch.inf)
    gaps = others.amin(dim=0)
    chosen = torch.zeros(count, dtype=torch.bool, device=distances.device)
    for step in range(count):
        best = _first_largest(gaps.masked_fill(chosen, -torch.inf))
        order[step] = best
        chosen[best] = True
        nearest = distances.index_select(0, best[None])[0]
        gaps = nearest if step == 0 else torch.minimum(gaps, nearest)
    return order


def by_conditional_diversity(tokens: FreeTokens) -> Tensor:
    """CDPruner's greedy MAP inference of a determinantal point process: int64 [P], in the order of choice.

    The kernel is diag(r) C diag(r), C the tokens' cosines and r their relevance to the instruction: the mean cosine
    with its tokens, scaled to 0..1. Tokens that add no volume come last, by relevance. Sources: CDPruner (arXiv
    2506.10967), sections 3.2 and 3.3; greedy inference of Chen et al. (2018), algorithm 1.
    """
    assert tokens.cues.prompt is not None
    relevance = relevance_to(tokens.cues.prompt, tokens.features)
    kernel = relevance[:, None] * _wide_cosines(tokens.features) * relevance
    count = len(kernel)
    order = torch.empty(count, dtype=torch.int64, device=kernel.device)
    volume = kernel.diagonal().clone()
    rows = kernel.new_zeros(count, count)
    chosen = torch.zeros(count, dtype=torch.bool, device=kernel.device)
    for step in range(count):
        spent = volume <= _EXHAUSTED
        worth = torch.where(spent, relevance - 2.0, volume)  # below every volume, in the order of relevance
        best = _first_largest(worth.masked_fill(chosen, -torch.inf))
        order[step] = best
        chosen[best] = True
        gain = volume[best]
        explained = rows[:step, best] @ rows[:step]
        row = (kernel[best] - explained) / gain.clamp(min=_EXHAUSTED).sqrt()
        rows[step] = torch.where(gain > _EXHAUSTED, row, 0.0)
        volume = volume - rows[step].square()
    return order


def relevance_to(prompt: Tensor, features: Tensor) -> Tensor:
    """float64 [P] in 0..1: mean cosine of each of ``features`` [P, D] with the tokens of ``prompt`` [T, D], min-max."""
    mean = (_wide_units(features) @ _wide_units(prompt).T).mean(dim=1)
    lowest, highest = mean.amin(), mean.amax()
    return (mean - lowest + 1e-6) / (highest - lowest + 1e-6)


def by_attention(tokens: FreeTokens) -> Tensor:
    """int64 [P]: VisionZip's dominant tokens first, those to which the encoder attends most."""
    assert tokens.cues.attention is not None
    return by_score(tokens.cues.attention.float())


def dominant_and_contextual(tokens: FreeTokens, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """VisionZip: dominant tokens stay as they are; to a contextual one the mean of those merged into it is added.

    Contextual tokens are taken at even steps from those that are not dominant. Every other token is merged into the
    contextual one whose key is most like its own. Source: VisionZip (arXiv 2412.04467), section 3.2 and released code.

    Args:
        order: int64 [P] on the CPU, see `by_attention`.
        count: how many stay, dominant and contextual together.

    Returns:
        int64 [M] ascending on the CPU, and float32 [M, D].
    """
    contextual = round(count * CONTEXTUAL_SHARE)
    dominant, rest = order[: count - contextual], order[count - contextual :].sort().values
    step = max(1, len(rest) // max(1, contextual))
    is_target = torch.zeros(len(rest), dtype=torch.bool)
    is_target[torch.arange(0, len(rest), step)[:contextual]] = True
    targets, others = rest[is_target], rest[~is_target]
    kept = torch.cat([dominant, targets]).sort().values
    features = tokens.features.float()
    merged = features.clone()
    if len(targets):
        device = features.device
        targets, others = targets.to(device), others.to(device)
        keys = unit_tokens(tokens.features if tokens.cues.keys is None else tokens.cues.keys)
        home = (keys[others] @ keys[targets].T).max(dim=1).indices
        sums = torch.zeros_like(features[targets]).index_add(0, home, features[others])
        counts = torch.zeros(len(targets), device=device).index_add(0, home, torch.ones(len(others), device=device))
        merged[targets] += sums / counts.clamp(min=1.0)[:, None]
    return kept, merged[kept.to(features.device)]


def _wide_units(features: Tensor) -> Tensor:
    """float64 [N, D] of norm 1, or 0 where the token is 0."""
    units = unit_tokens(features).double()
    norms: Tensor = torch.linalg.vector_norm(units, dim=-1, keepdim=True)
    return units / torch.where(norms > 0, norms, 1.0)


def _wide_cosines(features: Tensor) -> Tensor:
    """float64 [N, N], rounded to float32's digits so that what is equal on paper is equal here."""
    units = _wide_units(features)
    return (units @ units.T).float().double()


def _first_largest(values: Tensor) -> Tensor:
    """Index of the largest of ``values`` [N], the first of equal ones, on every device."""
    return (values == values.amax()).int().argmax()
