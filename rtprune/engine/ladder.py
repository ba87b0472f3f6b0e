"""What is tried with a page that fails or is read in a loop: more tokens, then more pixels, then another path."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rtprune.engine.result import RungName
from rtprune.models.protocol import TILED_MODE, OcrModel
from rtprune.pruning import PruneConfig

LOW_TEMPERATURE = 0.2


@dataclass(frozen=True)
class Rung:
    """One way of reading a page.

    Attributes:
        name: "asked" (as the settings say), "unpruned", "tiled" (unpruned and cut into tiles), "sampled" (unpruned, at
            a low temperature).
        mode: view size.
        pruning: how to prune.
        temperature: of sampling; 0 is greedy.
    """

    name: RungName
    mode: str
    pruning: PruneConfig
    temperature: float = 0.0


def ladder(model: OcrModel, mode: str, pruning: PruneConfig) -> tuple[Rung, ...]:
    """The ways of reading a page, in the order in which they are tried; those that change nothing are left out."""
    whole = replace(pruning, ratio=0.0)
    rungs = [Rung("asked", mode, pruning)]
    if pruning.ratio != 0.0:
        rungs.append(Rung("unpruned", mode, whole))
    if TILED_MODE in model.modes and mode != TILED_MODE:
        rungs.append(Rung("tiled", TILED_MODE, whole))
    return (*rungs, Rung("sampled", mode, whole, LOW_TEMPERATURE))
