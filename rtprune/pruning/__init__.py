"""RTPrune: fewer visual tokens in front of the decoder, without training. Tensors in, tensors out."""

from __future__ import annotations

from rtprune.pruning.layout import TokenKind, TokenLayout
from rtprune.pruning.sequence import PruneConfig, Pruned, PruneFacts, prune, prune_batch

__all__ = ["PruneConfig", "PruneFacts", "Pruned", "TokenKind", "TokenLayout", "prune", "prune_batch"]
