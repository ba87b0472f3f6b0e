from __future__ import annotations

import math

import pytest
import torch

from rtprune.pruning.ratio import density, l2_norms, similarity
from rtprune.pruning.tokens import unit_tokens


def cosines_of(tokens: torch.Tensor) -> torch.Tensor:
    units = unit_tokens(tokens)
    return units @ units.T


def test_a_blank_white_patch_scores_its_border() -> None:
    assert float(density(torch.ones(3, 64, 64), 0.2)) == 252 / 4096


def test_a_black_page_scores_the_borders_of_its_patches() -> None:
    assert float(density(-torch.ones(3, 256, 256), 0.2)) == 252 / 4096


def test_a_middle_grey_page_has_no_edge() -> None:
    assert float(density(torch.zeros(3, 128, 128), 0.2)) == 0.0


def test_a_dot_counts_its_eight_neighbours() -> None:
    # Left of the dot the horizontal difference is 2, diagonally both are 1; at the dot itself both kernels are 0.
    view = torch.zeros(3, 64, 64)
    view[:, 30, 30] = 1.0
    assert float(density(view, 0.2)) == 8 / 4096
    assert float(density(view, 1.5)) == 4 / 4096, "diagonal neighbours have magnitude sqrt(2)"


def test_patches_do_not_see_each_other() -> None:
    # An edge exactly between two patches: each is filtered alone, against the padding of zeros.
    view = torch.zeros(3, 64, 128)
    view[:, :, 64:] = 1.0
    assert float(density(view, 0.2)) == 252 / 8192


def test_edges_are_found_on_luma() -> None:
    # A blue field of 0.4 has luma 0.0456: magnitude 4 * 0.0456 = 0.18 on its sides stays below 0.2, and at its
    # corners sqrt(2) * 3 * 0.0456 = 0.193 does so too. The same in green has luma 0.235 and is all border.
    blue, green = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    blue[2], green[1] = 0.4, 0.4
    assert float(density(blue, 0.2)) == 0.0
    assert float(density(green, 0.2)) == 252 / 4096


def test_similarity_is_the_mean_squared_cosine_of_pairs() -> None:
    # Pairs: (x, y) 90 degrees 0; (x, d) 45 degrees 1/2; (y, d) 45 degrees 1/2. Mean 1/3, whatever the lengths.
    tokens = torch.tensor([[3.0, 0.0], [0.0, 0.1], [2.0, 2.0]])
    assert float(similarity(cosines_of(tokens))) == pytest.approx(1 / 3, abs=1e-7)


def test_opposite_tokens_are_alike() -> None:
    assert float(similarity(cosines_of(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])))) == pytest.approx(1.0, abs=1e-6)


def test_a_token_alone_resembles_nothing() -> None:
    assert float(similarity(cosines_of(torch.ones(1, 4)))) == 0.0


def test_zero_tokens_resemble_nothing() -> None:
    assert float(similarity(cosines_of(torch.zeros(3, 4)))) == 0.0


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 5e37])
def test_unit_tokens_are_of_norm_one_at_any_scale(scale: float) -> None:
    units = unit_tokens(torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * scale)
    assert units.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


def test_norms_do_not_depend_on_the_order_of_summation() -> None:
    generator = torch.Generator().manual_seed(0)
    token = torch.randn(1280, generator=generator)
    shuffled = torch.stack([token[torch.randperm(1280, generator=generator)] for _ in range(200)])
    norms = l2_norms(shuffled)
    assert norms.dtype == torch.float32
    assert set(norms.tolist()) == {float(torch.tensor(math.sqrt(math.fsum(x * x for x in token.tolist()))))}
