"""The built-in checkpoint truly reads, and RTPrune is worth having on it: a gate for every change of the method."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from rtprune.mini.evaluate import COMPARED, DESIGNS, WAYS, Score, evaluate
from rtprune.mini.generator import draw_page
from rtprune.models import load_model

PAGES = 16  # of each design

#: Character errors that each kind of print may have unpruned: half more than these very pages have, or 1 %.
MOST_ERRORS = {"print": 0.01, "typewriter": 0.06, "sans": 0.035, "serif": 0.03}
#: What dynamic pruning may add to them.
MARGIN = 0.01


@pytest.fixture(scope="module")
def scores() -> Mapping[str, Mapping[str, Score]]:
    """By design, then by way of pruning: words that training never showed."""
    model, ways = load_model("mini"), WAYS | {"random": COMPARED["random"]}
    drawn = {}
    for name, design in DESIGNS.items():
        rng = np.random.default_rng(2026)
        drawn[name] = [draw_page(rng, "evaluation", design) for _ in range(PAGES)]
    plain = {"unpruned": ways["unpruned"], "dynamic": ways["dynamic"]}
    return {name: evaluate(model, pages, ways if name == "print" else plain) for name, pages in drawn.items()}


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_it_reads_words_it_never_saw(scores: Mapping[str, Mapping[str, Score]], design: str) -> None:
    assert scores[design]["unpruned"].character_error_rate <= MOST_ERRORS[design]


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
def test_pruning_costs_little(scores: Mapping[str, Mapping[str, Score]], design: str) -> None:
    whole, pruned = scores[design]["unpruned"], scores[design]["dynamic"]
    assert pruned.character_error_rate <= whole.character_error_rate + MARGIN
    assert whole.tokens_after == whole.tokens_before == 73
    assert pruned.tokens_after < 70


@pytest.mark.slow
def test_it_beats_random_pruning_at_equal_retention(scores: Mapping[str, Mapping[str, Score]]) -> None:
    ours, chance = scores["print"]["fixed 0.25"], scores["print"]["random"]
    assert ours.tokens_after <= 57
    assert chance.tokens_after == pytest.approx(ours.tokens_after, abs=2)  # newlines go with their rows' tokens
    assert ours.character_error_rate < chance.character_error_rate / 2
