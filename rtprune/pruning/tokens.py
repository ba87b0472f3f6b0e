"""The free tokens of one image, and what else a method may look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: Kinds of device that are fastest with as much as their caches hold, and take images one by one for that.
CACHED = ("cpu",)
_BLOCK = 64  # rows that are multiplied at a time


@dataclass(frozen=True, eq=False)
class Cues:
    """What some methods need in addition to the features.

    Attributes:
        prompt: [T, D], embeddings of the instruction's tokens in the decoder's space (CDPruner).
        attention: [P], attention that each free token receives in the vision encoder (VisionZip).
        keys: [P, E], the encoder's keys of the free tokens (VisionZip); the features themselves where absent.
    """

    prompt: Tensor | None = None
    attention: Tensor | None = None
    keys: Tensor | None = None


@dataclass(frozen=True, eq=False)
class FreeTokens:
    """The tokens of one image that may be pruned.

    Attributes:
        features: [P, D], in the order of the sequence.
        cues: see `Cues`; finite, and of shapes that fit ``features``.
    """

    features: Tensor
    cues: Cues

    @cached_property
    def units(self) -> Tensor:
        """float32 [P, D]: each token scaled to norm 1."""
        return unit_tokens(self.features)

    @cached_property
    def cosines(self) -> Tensor:
        """float32 [P, P]: cosine of each pair."""
        return gram(self.units)

    def take(self, indices: Tensor) -> Tensor:
        """A copy of the tokens ``indices`` [M]: [M, D]."""
        return self.features.index_select(0, indices)  # several times as fast as indexing with brackets

    def cosines_between(self, rows: Tensor, columns: Tensor) -> Tensor:
        """float32 [M, N]: cosines of the tokens ``rows`` [M] with the tokens ``columns`` [N]."""
        if "cosines" in self.__dict__:
            return self.cosines.index_select(0, rows).index_select(1, columns)
        return self.units.index_select(0, rows) @ self.units.index_select(0, columns).T


def gram(units: Tensor) -> Tensor:
    """``units @ units.T`` of ``units`` [P, D] or [B, P, D].

    A CPU computes one half and copies it to the other, which takes two thirds of the time.
    """
    if units.device.type not in CACHED:
        return units @ units.mT
    if units.ndim == 3:
        return torch.stack([gram(mine) for mine in units])
    count = len(units)
    products = units.new_empty(count, count)
    for begin in range(0, count, _BLOCK):
        end = min(count, begin + _BLOCK)
        torch.mm(units[begin:end], units[:end].T, out=products[begin:end, :end])
        products[:begin, begin:end] = products[begin:end, :begin].T
    return products


def unit_tokens(features: Tensor) -> Tensor:
    """``features`` [..., D] scaled to norm 1: float32 [..., D]. A zero token stays zero and resembles nothing."""
    # Scaling by the largest value first keeps the squares of very large and very small features in range.
    wide = features.float()
    largest = wide.abs().amax(dim=-1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled.div_(norms.clamp_(min=1.0))  # a scaled token has norm 0 or at least 1
