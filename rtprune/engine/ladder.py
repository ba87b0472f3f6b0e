"""What is tried with a page that fails or is read in a loop: more tokens, then more pixels, then another path."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rtprune.engine.result import StrategyName
from rtprune.models.card import TILED_MODE
from rtprune.models.protocol import OcrModel
from rtprune.pruning import PruneConfig

LOW_TEMPERATURE = 0.2


@dataclass(frozen=True)
class Strategy:
    """One way of reading a page.

    Attributes:
        name: "default" (as the settings say), "unpruned", "tiled" (unpruned and cut into tiles), "sampled" (unpruned,
            at a low temperature).
        mode: view size.
        pruning: how to prune.
        temperature: of sampling; 0 is greedy.
    """

    name: StrategyName
    mode: str
    pruning: PruneConfig
    temperature: float = 0.0


def ladder(model: OcrModel, mode: str, pruning: PruneConfig) -> tuple[Strategy, ...]:
    """The ways of reading a page, in the order in which they are tried; those that change nothing are left out."""
    whole = replace(pruning, ratio=0.0)
    strategies = [Strategy("default", mode, pruning)]
    if pruning.ratio != 0.0:
        strategies.append(Strategy("unpruned", mode, whole))
    if TILED_MODE in model.modes and mode != TILED_MODE:
        strategies.append(Strategy("tiled", TILED_MODE, whole))
    return (*strategies, Strategy("sampled", mode, whole, LOW_TEMPERATURE))
