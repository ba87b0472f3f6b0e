"""RTPrune as it was published, on one screen: the page to read first, and what the tests compare the package with.

`prune_as_published` names the five steps; each one with a formula is a function below it. Written from the paper
(arXiv 2605.00392); where that leaves something open, the released implementation's choice is taken. It is plain, not
fast, and computes in the dtype that it is given: the package computes the same numbers many times faster.

P is the number of free tokens (those that are neither newline nor separator), M of them are kept, N = P - M dropped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rtprune.pruning.layout import TokenKind, TokenLayout

THRESHOLD = 0.2  # tau: Sobel magnitude above which a pixel is an edge
DUSTBIN = 0.2  # z: score of every token with the dustbin
ALPHA = 0.1  # weight of what is merged
STEPS = 100  # of Sinkhorn's algorithm


def prune_as_published(
    features: Tensor, layout: TokenLayout, view: Tensor, ratio: float | None = None
) -> tuple[Tensor, Tensor]:
    """Prune the visual tokens of one image with the paper's settings.

    Args:
        features: [L, D], the embeddings between projector and decoder.
        layout: which of the L positions are free tokens.
        view: [3, H, W] in [-1, 1], the global view.
        ratio: share of the free tokens to prune, 0..1; when absent it depends on the image ("dynamic").

    Returns:
        Surviving features [K, D], and their positions [K] in the unpruned sequence.
    """
    free = layout.free.nonzero().squeeze(1).to(features.device)
    tokens = features[free]

    # 1. How many: tokens that resemble each other can go, unless the page is densely written.
    if ratio is None:
        ratio = similarity(tokens) * (1.0 - density(view, layout.patch))
    count = math.floor(len(tokens) * (1.0 - ratio) + 1e-9)  # 1e-9: rounding must not cost a token

    # 2. Which: those of the largest norm, in their order; of equal norms the earlier ones.
    order = tokens.norm(dim=-1).float().argsort(descending=True, stable=True)
    kept, dropped = order[:count].sort().values, order[count:].sort().values

    # 3. Merge the dropped tokens into the kept ones.
    merged = features.clone()
    if len(kept) and len(dropped):
        scores = cosines(tokens[kept], tokens[dropped])
        merged[free[kept]] = tokens[kept] + ALPHA * transport_plan(scores) @ tokens[dropped]

    # 4. Newlines and separators stay, but of newlines that became neighbours only the first.
    kinds, gone = layout.kinds.tolist(), set(free[dropped].tolist())
    positions: list[int] = []
    for position, kind in enumerate(kinds):
        repeats = gone and positions and kind == kinds[positions[-1]] == TokenKind.NEWLINE
        if position not in gone and not repeats:
            positions.append(position)

    # 5. Every survivor keeps its position: the decoder sees gaps where tokens are missing.
    where = torch.tensor(positions, dtype=torch.long, device=features.device)
    return merged[where], where


def cosines(ones: Tensor, others: Tensor) -> Tensor:
    """[M, N]: cosine of each of ``ones`` [M, D] with each of ``others`` [N, D]; 0 for a token of zeros."""
    return functional.normalize(ones, dim=-1) @ functional.normalize(others, dim=-1).T


def similarity(tokens: Tensor) -> float:
    """Mean of cos(i, j)^2 over the ordered pairs i != j of ``tokens`` [P, D]; 0 where there is no pair."""
    pairs = cosines(tokens, tokens)[~torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)]
    return pairs.square().mean().item() if len(pairs) else 0.0


def density(view: Tensor, patch: int) -> float:
    """Share of edge pixels in each patch of ``view`` [3, H, W], mean over the patches, each filtered alone."""
    luma = 0.299 * view[0] + 0.587 * view[1] + 0.114 * view[2]
    sobel = luma.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([sobel, sobel.T])[:, None]
    shares = []
    for top in range(0, luma.shape[0], patch):
        for left in range(0, luma.shape[1], patch):
            part = luma[top : top + patch, left : left + patch]
            slopes = functional.conv2d(part[None, None], kernels, padding=1)[0]
            magnitude = torch.sqrt(slopes[0] ** 2 + slopes[1] ** 2)
            shares.append((magnitude > THRESHOLD).float().mean().item())
    return sum(shares) / len(shares)


def transport_plan(scores: Tensor) -> Tensor:
    """How much of each dropped token goes to each kept one: [M, N], of their ``scores`` [M, N].

    Optimal transport with an entropy term of strength 1. A dustbin row and column take what fits nowhere: a token has
    mass 1, the dustbin of each side as much as the other side's tokens together.
    """
    kept, dropped = scores.shape
    augmented = functional.pad(scores, (0, 1, 0, 1), value=DUSTBIN)
    log_rows = scores.new_tensor([0.0] * kept + [math.log(dropped)])
    log_columns = scores.new_tensor([0.0] * dropped + [math.log(kept)])
    f, g = torch.zeros_like(log_rows), torch.zeros_like(log_columns)
    for _ in range(STEPS):
        f = log_rows - torch.logsumexp(augmented + g[None, :], dim=1)
        g = log_columns - torch.logsumexp(augmented + f[:, None], dim=0)
    return torch.exp(augmented + f[:, None] + g[None, :])[:kept, :dropped]
