"""RTPrune: fewer visual tokens in front of the decoder, without training. Tensors in, tensors out."""

from __future__ import annotations

from rtprune.pruning.layout import TokenKind, TokenLayout
from rtprune.pruning.methods import MERGES, METHODS, SCORES
from rtprune.pruning.sequence import PruneConfig, Pruned, PruneFacts, prune, prune_batch
from rtprune.pruning.tokens import Cues

__all__ = [
    "MERGES",
    "METHODS",
    "SCORES",
    "Cues",
    "PruneConfig",
    "PruneFacts",
    "Pruned",
    "TokenKind",
    "TokenLayout",
    "prune",
    "prune_batch",
]
