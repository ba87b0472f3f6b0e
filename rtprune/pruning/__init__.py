"""RTPrune: fewer visual tokens in front of the decoder, without training. Tensors in, tensors out."""

from __future__ import annotations

from rtprune.pruning.layout import TokenKind, TokenLayout
from rtprune.pruning.methods import MERGES, METHODS, SCORES, Method, first_alone, first_merged, register_method
from rtprune.pruning.selection import by_score
from rtprune.pruning.sequence import PruneConfig, Pruned, PruneFacts, prune, prune_batch
from rtprune.pruning.tokens import Cues, FreeTokens

__all__ = [
    "MERGES",
    "METHODS",
    "SCORES",
    "Cues",
    "FreeTokens",
    "Method",
    "PruneConfig",
    "PruneFacts",
    "Pruned",
    "TokenKind",
    "TokenLayout",
    "by_score",
    "first_alone",
    "first_merged",
    "prune",
    "prune_batch",
    "register_method",
]
