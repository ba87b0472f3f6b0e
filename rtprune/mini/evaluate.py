"""Measure the built-in checkpoint on fresh pages: ``python -m rtprune.mini.evaluate --pages 100 --seed 1 --json``.

Pages are drawn from the evaluation half of the generator: no word on them was ever shown in training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from rtprune.engine import Engine, PageResult
from rtprune.engine.fidelity import edit_distance
from rtprune.mini.generator import PRINT, SANS, SERIF, TYPEWRITER, Page, draw_page
from rtprune.models import load_model
from rtprune.models.protocol import OcrModel
from rtprune.pruning import PruneConfig
from rtprune.settings import ReadSettings

FIXED = 0.25  # the paper's fixed ratio
WAYS = {
    "unpruned": PruneConfig(ratio=0.0),
    "dynamic": PruneConfig(),
    "fixed 0.25": PruneConfig(ratio=FIXED),
}
#: The paper's ablations and rivals, all at its fixed ratio.
COMPARED = {
    "variance": PruneConfig(ratio=FIXED, score="variance"),
    "entropy": PruneConfig(ratio=FIXED, score="entropy"),
    "no merge": PruneConfig(ratio=FIXED, merge="none"),
    "nearest": PruneConfig(ratio=FIXED, merge="nearest"),
    "random": PruneConfig(ratio=FIXED, method="random"),
    "DivPrune": PruneConfig(ratio=FIXED, method="divprune"),
    "CDPruner": PruneConfig(ratio=FIXED, method="cdpruner"),
    "VisionZip": PruneConfig(ratio=FIXED, method="visionzip"),
}


#: Kinds of print: one size of Courier; Courier, Helvetica and Times in a range of sizes, bold or not.
DESIGNS = {"print": PRINT, "typewriter": TYPEWRITER, "sans": SANS, "serif": SERIF}


@dataclass(frozen=True)
class Score:
    """How one way of pruning read the pages.

    Attributes:
        character_error_rate: edits over all pages / characters of truth over all pages.
        perfect_pages: share of pages without an edit.
        tokens_before: mean length of a page's visual sequence.
        tokens_after: mean length after pruning.
        pages_per_minute: reading alone, drawing excluded.
    """

    character_error_rate: float
    perfect_pages: float
    tokens_before: float
    tokens_after: float
    pages_per_minute: float


def evaluate(model: OcrModel, pages: Sequence[Page], ways: Mapping[str, PruneConfig]) -> dict[str, Score]:
    """Score of each of the ``ways`` of pruning on ``pages``."""
    mode = model.default_mode
    longest = max(len(page.text) for page in pages)
    scores = {}
    settings = ReadSettings(model=model.name, mode=mode, task="text", max_output_tokens=longest + 100)
    for name, pruning in ways.items():
        begin = time.perf_counter()
        results = read(Engine(model, settings, pruning), pages)
        scores[name] = _score(pages, results, time.perf_counter() - begin)
    return scores


def read(engine: Engine, pages: Sequence[Page]) -> list[PageResult]:
    """What the engine makes of drawn pages."""
    return engine.read([Image.fromarray(page.picture).convert("RGB") for page in pages])


def _score(pages: Sequence[Page], results: Sequence[PageResult], seconds: float) -> Score:
    edits = [edit_distance(page.text, result.text) for page, result in zip(pages, results, strict=True)]
    facts = [result.facts for result in results if result.facts is not None]
    return Score(
        character_error_rate=round(sum(edits) / sum(len(page.text) for page in pages), 5),
        perfect_pages=round(sum(edit == 0 for edit in edits) / len(pages), 4),
        tokens_before=round(float(np.mean([fact.tokens_before for fact in facts])), 2),
        tokens_after=round(float(np.mean([fact.tokens_after for fact in facts])), 2),
        pages_per_minute=round(60 * len(pages) / seconds, 1),
    )


def main() -> None:
    """Draw, read, print (command line)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="mini", help="'mini' or a folder that training exported")
    parser.add_argument("--design", choices=list(DESIGNS), default="print", help="kind of print on the pages")
    parser.add_argument("--compare", action="store_true", help="the paper's ablations and rivals too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    pages = [draw_page(rng, "evaluation", DESIGNS[arguments.design]) for _ in range(arguments.pages)]
    ways = WAYS | COMPARED if arguments.compare else WAYS
    scores = evaluate(load_model(arguments.model), pages, ways)
    if arguments.json:
        print(
            json.dumps(
                {
                    "pages": len(pages),
                    "seed": arguments.seed,
                    "design": arguments.design,
                    **{name: asdict(score) for name, score in scores.items()},
                },
                indent=2,
            )
        )
        return
    print(f"{len(pages)} pages of words never seen in training, design {arguments.design}")
    for name, score in scores.items():
        print(
            f"{name:>12}: {100 * score.character_error_rate:6.2f} % character errors, "
            f"{score.tokens_before:.0f} -> {score.tokens_after:.1f} visual tokens, "
            f"{score.pages_per_minute:.0f} pages a minute"
        )


if __name__ == "__main__":
    main()
