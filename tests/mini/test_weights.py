"""The built-in checkpoint truly reads."""

from __future__ import annotations

import numpy as np
import pytest

from rtprune.mini.evaluate import WAYS, evaluate
from rtprune.mini.generator import draw_page
from rtprune.models import load_model


@pytest.mark.slow
def test_it_reads_words_it_never_saw_and_pruning_costs_little() -> None:
    rng = np.random.default_rng(2026)
    scores = evaluate(load_model("mini"), [draw_page(rng, "evaluation") for _ in range(24)], WAYS)
    assert scores["unpruned"].character_error_rate <= 0.05
    assert scores["dynamic"].character_error_rate <= scores["unpruned"].character_error_rate + 0.02
    assert scores["unpruned"].tokens_after == scores["unpruned"].tokens_before == 73
    assert scores["dynamic"].tokens_after < 70
    assert scores["fixed 0.25"].tokens_after <= 57
