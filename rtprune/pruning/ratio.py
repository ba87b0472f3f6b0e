"""How much of a page to prune: the more its tokens resemble each other, the more; the denser its print, the less.

Source of the formulas: RTPrune (arXiv 2605.00392); the paper leaves open how the similarity is normalised, and
the released implementation's choice is taken: the squared cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LUMA = (0.299, 0.587, 0.114)
_STRIP = 320  # pixels: a strip of this height stays in a CPU's cache while it is filtered


def l2_norms(features: Tensor) -> Tensor:
    """l2 norm of each token of ``features`` [..., D]: float32 [...].

    Summed in float64 and rounded to float32, so that norms that are equal on paper are equal on every device, in every
    batch and in any order of summation. Ties can then be broken by position.
    """
    norms: Tensor = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float64)
    return norms.float()


def similarity(cosines: Tensor) -> Tensor:
    """Mean of cos(i, j)^2 over ordered pairs i != j of ``cosines`` [P, P]: float64 scalar in [0, 1].

    Fewer than two tokens have no pair: 0.
    """
    count = cosines.shape[0]
    if count < 2:
        return cosines.new_zeros((), dtype=torch.float64)
    squares = cosines.square()
    squares.fill_diagonal_(0.0)
    return (squares.sum(dtype=torch.float64) / (count * (count - 1))).clamp(0.0, 1.0)


def density(view: Tensor, threshold: float, patch: int = 64) -> Tensor:
    """Share of pixels with an edge, mean over the view's patches: float64 scalar in [0, 1].

    Args:
        view: [3, H, W] in [-1, 1], H and W multiples of ``patch``.
        threshold: Sobel magnitude (on luma) above which a pixel counts as an edge.
        patch: side in pixels of what one visual token stands for.

    NaN if the view is not finite.

    Each patch is filtered alone with zero padding, so a blank white patch of 64 pixels scores its border, 252/4096.
    """
    height, width = view.shape[-2:]
    # A CPU filters a few rows of patches at a time, which stay in its cache; a GPU is fastest with the whole view.
    strip_height = max(1, _STRIP // patch) * patch
    strips = torch.split(view, strip_height, dim=1) if view.device.type == "cpu" else (view,)
    edges = torch.stack([_edges(strip, threshold, patch).sum() for strip in strips]).sum()
    return edges / (height * width)  # all patches have the same size: the mean of means is the mean


def densities(views: Tensor, threshold: float, patch: int = 64) -> Tensor:
    """`density` of each of the ``views`` [B, 3, H, W], at once: float64 [B]."""
    height, width = views.shape[-2:]
    tall = views.transpose(0, 1).reshape(3, -1, width)  # patches are filtered apart, those of all views alike
    edges = _edges(tall, threshold, patch).view(len(views), -1).sum(dim=1)
    return edges / (height * width)


def _edges(strip: Tensor, threshold: float, patch: int) -> Tensor:
    """float64 [H / patch, W / patch]: edge pixels of each patch of ``strip`` [3, H, W], each filtered alone.

    NaN where a patch is not finite.
    """
    red, green, blue = strip.float()
    luma = torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    rows, columns = luma.shape[0] // patch, luma.shape[1] // patch
    patches = luma.reshape(rows, patch, columns, patch).transpose(1, 2)
    padded = functional.pad(patches, (1, 1, 1, 1))
    # Both Sobel kernels are differences of sums over 2 x 2 pixels: with d and e their diagonal differences, the
    # gradient is (d + e, d - e) and its square 2 (d^2 + e^2). Plain sums are exact on every device; a convolution may
    # run in a shorter number format on a GPU.
    pairs = padded[..., :-1, :] + padded[..., 1:, :]
    fours = pairs[..., :-1] + pairs[..., 1:]
    falling = fours[..., 1:, 1:] - fours[..., :-1, :-1]
    rising = fours[..., :-1, 1:] - fours[..., 1:, :-1]
    half_square = falling.square_().addcmul_(rising, rising)
    # float32 counts a patch's pixels exactly
    edges = half_square.gt_(threshold * abs(threshold) / 2.0).sum(dim=(-2, -1))
    return edges.double() + 0.0 * patches.sum(dim=(-2, -1))
