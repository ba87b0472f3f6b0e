"""The published formulation gives what ours gives: otherwise a comparison of their times would mean nothing."""

from __future__ import annotations

import pytest

from rtprune.bench.prune import page, random_features
from rtprune.bench.published import prune_as_published
from rtprune.models.preparation import prepare
from rtprune.pruning import PruneConfig, prune


@pytest.mark.parametrize("mode", ["tiny", "small", "base", "gundam"])
@pytest.mark.parametrize("ratio", [None, 0.25])
def test_both_formulations_prune_alike(mode: str, ratio: float | None) -> None:
    views = prepare(page(), mode)
    features = random_features(views)
    ours = prune(features, views.layout, views.global_view, PruneConfig(ratio="dynamic" if ratio is None else ratio))
    published, positions = prune_as_published(features, views.layout, views.global_view, ratio)
    assert ours.positions.tolist() == positions.tolist()
    assert 0 < ours.facts.free_after < ours.facts.free_before
    assert float((ours.features - published).abs().max()) < 1e-4
