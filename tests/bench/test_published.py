"""The published formulation gives what ours gives: otherwise a comparison of their times would mean nothing."""

from __future__ import annotations

import json

import pytest
import torch

from rtprune.bench.prune import page, random_features
from rtprune.bench.published import prune_as_published
from rtprune.cli import main
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


def test_the_measurements_are_json_with_every_mode(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert main(["bench", "prune", "--json", "--repeats", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert found["modes"].keys() == {"tiny", "small", "base", "large", "gundam"}
    for cost in found["modes"].values():
        assert 0 < cost["ours"]["min"] <= cost["ours"]["median"] <= cost["ours"]["max"]
        assert cost["tokens_after"] < cost["tokens_before"]
        assert cost["prefill_unpruned"] is None


def test_a_models_own_prefill_is_measured(random_checkpoint: object, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert main(["bench", "prune", "--model", str(random_checkpoint), "--repeats", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert "prefill" in lines[1]
    assert len(lines) == 7
    assert all(line.endswith("x") for line in lines[2:])
