"""RTPrune as it was published, step for step: what `rtprune bench prune` compares ours against.

Density in a Python loop over patches that asks the device for each one's share; transport in exactly 100 steps in the
log domain over the augmented scores; everything in float32. Written from the specification of the method.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rtprune.pruning import TokenLayout

STEPS = 100
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def prune_as_published(
    features: Tensor, layout: TokenLayout, view: Tensor, ratio: float | None = None
) -> tuple[Tensor, Tensor]:
    """Surviving features [K, D] and positions [K] with the paper's settings; ``ratio`` absent means dynamic.

    Args:
        features: float32 [L, D].
        view: float32, of shape ``layout.view_shape``, in [-1, 1].
    """
    free = layout.free.to(features.device).nonzero().squeeze(1)
    tokens = features[free]
    if ratio is None:
        ratio = mean_squared_cosine(tokens) * (1.0 - density_by_patch(view, layout.patch))
    count = math.floor(len(free) * (1.0 - ratio))
    order = tokens.norm(dim=-1).argsort(descending=True, stable=True)
    kept, dropped = order[:count].sort().values, order[count:].sort().values
    merged = features.clone()
    if len(kept) and len(dropped):
        unit = functional.normalize(tokens, dim=-1)
        plan = transport_by_steps(unit[kept] @ unit[dropped].T)
        merged[free[kept]] = tokens[kept] + 0.1 * plan @ tokens[dropped]
    stays = torch.ones(layout.length, dtype=torch.bool, device=features.device)
    stays[free[dropped]] = False
    newline = layout.newlines.tolist()
    before = False
    for position in stays.nonzero().squeeze(1).tolist():
        if newline[position] and before and len(dropped):
            stays[position] = False
        before = newline[position]
    positions = stays.nonzero().squeeze(1)
    return merged[positions], positions


def mean_squared_cosine(tokens: Tensor) -> float:
    """Of ordered pairs of different tokens [P, D]."""
    cosines = functional.normalize(tokens, dim=-1) @ functional.normalize(tokens, dim=-1).T
    off = ~torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)
    return cosines[off].square().mean().item()


def density_by_patch(view: Tensor, patch: int = 64, threshold: float = 0.2) -> float:
    """Mean share of edge pixels, patch by patch."""
    luma = 0.299 * view[0] + 0.587 * view[1] + 0.114 * view[2]
    horizontal = torch.tensor(_SOBEL, device=view.device)
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    shares = []
    for top in range(0, luma.shape[0], patch):
        for left in range(0, luma.shape[1], patch):
            part = luma[top : top + patch, left : left + patch]
            slopes = functional.conv2d(part[None, None], kernels, padding=1)[0]
            magnitude = torch.sqrt(slopes[0] ** 2 + slopes[1] ** 2)
            shares.append((magnitude > threshold).float().mean().item())
    return sum(shares) / len(shares)


def transport_by_steps(scores: Tensor, dustbin: float = 0.2) -> Tensor:
    """Plan [M, N] of the scores [M, N] after 100 log-domain Sinkhorn steps, regularisation 1."""
    kept, dropped = scores.shape
    augmented = functional.pad(scores, (0, 1, 0, 1), value=dustbin)
    log_rows = scores.new_tensor([0.0] * kept + [math.log(dropped)])
    log_columns = scores.new_tensor([0.0] * dropped + [math.log(kept)])
    f, g = torch.zeros_like(log_rows), torch.zeros_like(log_columns)
    for _ in range(STEPS):
        f = log_rows - torch.logsumexp(augmented + g[None, :], dim=1)
        g = log_columns - torch.logsumexp(augmented + f[:, None], dim=0)
    return torch.exp(augmented + f[:, None] + g[None, :])[:kept, :dropped]
