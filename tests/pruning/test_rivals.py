"""RTPrune's rivals against small cases worked by hand and against what their papers maximise."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from rtprune.pruning import Cues, PruneConfig, TokenLayout, prune
from rtprune.pruning.rivals import by_conditional_diversity, by_diversity, dominant_and_contextual, relevance_to
from rtprune.pruning.tokens import FreeTokens


def directions(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])


def test_divprune_by_hand() -> None:
    # Distances are 1 - cos. Nearest others: 0.015 of 0 and of 10 degrees, 0.83 of 90, 1 of 180: that is first. The
    # farthest from it is 0 (2). Then 90 has 1 to both, 10 has 0.015 to 0.
    assert by_diversity(FreeTokens(directions(0, 10, 90, 180), Cues())).tolist() == [3, 0, 2, 1]


def test_divprune_looks_at_directions_alone_and_breaks_ties_by_position() -> None:
    lengths = torch.tensor([[5.0], [0.1], [7.0], [3.0]])
    assert by_diversity(FreeTokens(directions(0, 10, 90, 180) * lengths, Cues())).tolist() == [3, 0, 2, 1]
    assert by_diversity(FreeTokens(torch.ones(4, 3), Cues())).tolist() == [0, 1, 2, 3]


def test_divprune_s_choice_is_within_half_of_the_best_there_is() -> None:
    # what greedy max-min diversity guarantees, against every subset of five
    tokens = torch.randn(9, 2, generator=torch.Generator().manual_seed(5))
    units = tokens / tokens.norm(dim=1, keepdim=True)

    def spread(chosen: list[int]) -> float:
        return min(float((units[i] - units[j]).norm()) for i, j in combinations(chosen, 2))

    best = max(spread(list(subset)) for subset in combinations(range(9), 5))
    order = by_diversity(FreeTokens(tokens, Cues())).tolist()
    assert sorted(order) == list(range(9))
    assert spread(order[:5]) >= best / 2


def test_relevance_is_the_mean_cosine_scaled_to_one() -> None:
    prompt = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    tokens = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])  # mean cosines 1/2, 1/sqrt 2, -1/2
    highest, lowest = 1 / math.sqrt(2), -0.5
    assert relevance_to(prompt, tokens).tolist() == pytest.approx([(0.5 - lowest) / (highest - lowest), 1, 0], abs=2e-6)


def test_cdpruner_by_hand() -> None:
    # Relevance 1, 0, 1. Tokens 0 and 2 are alike: with the first chosen the other adds no volume, and token 1 has none
    # to give; what adds nothing follows in the order of relevance.
    tokens = FreeTokens(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), Cues(prompt=torch.tensor([[4.0, 0.0]])))
    assert by_conditional_diversity(tokens).tolist() == [0, 2, 1]


def test_cdpruner_takes_the_token_that_makes_the_determinant_largest() -> None:
    generator = torch.Generator().manual_seed(11)
    features, prompt = torch.randn(12, 16, generator=generator), torch.randn(4, 16, generator=generator)
    relevance = relevance_to(prompt, features).numpy()
    units = features.double().numpy() / np.linalg.norm(features.double().numpy(), axis=1, keepdims=True)
    kernel = relevance[:, None] * (units @ units.T) * relevance
    chosen: list[int] = []
    for _ in range(8):
        left = [i for i in range(12) if i not in chosen]
        chosen.append(max(left, key=lambda i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])])))
    order = by_conditional_diversity(FreeTokens(features, Cues(prompt=prompt)))
    assert order[:8].tolist() == chosen


def test_visionzip_with_one_contextual_token_by_hand() -> None:
    # Six stay: round(6 * 10 / 64) = 1 is contextual. Five dominant ones by attention: 9 8 7 6 5. Of the rest, 0 to 4,
    # the first is the target; the others' mean, 2.5, is added to its 0.
    features = torch.arange(10.0)[:, None] * torch.ones(1, 2)
    attention = torch.arange(10.0)
    result = prune(
        features,
        TokenLayout.plain(10, 1, 64),
        config=PruneConfig(ratio=0.4, method="visionzip"),
        cues=Cues(attention=attention),
    )
    assert result.positions.tolist() == [0, 5, 6, 7, 8, 9]
    assert result.features[:, 0].tolist() == [2.5, 5.0, 6.0, 7.0, 8.0, 9.0]


def test_visionzip_merges_by_keys_into_targets_at_even_steps() -> None:
    # Of 16 stay 13, two of them contextual; the rest, 0 to 4, gives targets 0 and 2 (step 5 // 2). Keys say that 1 and
    # 3 belong to 2, and 4 to 0.
    features = torch.arange(16.0)[:, None].repeat(1, 2)
    keys = torch.ones(16, 2)
    keys[[0, 4]] = torch.tensor([1.0, 0.0])
    keys[[1, 2, 3]] = torch.tensor([0.0, 1.0])
    tokens = FreeTokens(features, Cues(attention=torch.arange(16.0), keys=keys))
    kept, merged = dominant_and_contextual(tokens, torch.arange(15, -1, -1), 13)
    assert kept.tolist() == [0, 2, *range(5, 16)]
    assert merged[:, 0].tolist() == [0 + 4.0, 2 + (1 + 3) / 2, *map(float, range(5, 16))]


def test_visionzip_with_too_few_for_a_contextual_token_keeps_the_dominant_ones() -> None:
    tokens = FreeTokens(torch.eye(4), Cues(attention=torch.tensor([0.1, 0.4, 0.3, 0.2])))
    kept, merged = dominant_and_contextual(tokens, torch.tensor([1, 2, 3, 0]), 2)
    assert kept.tolist() == [1, 2]
    assert torch.equal(merged, torch.eye(4)[1:3])
