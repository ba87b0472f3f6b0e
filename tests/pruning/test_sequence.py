from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.pruning import PruneConfig, TokenLayout, prune, prune_batch

TWO = TokenLayout.deepseek_ocr(2)  # positions: 0 1 n2 3 4 n5 s6


def small_features() -> torch.Tensor:
    features = torch.zeros(7, 2)
    features[0] = torch.tensor([4.0, 0.0])
    features[1] = torch.tensor([0.0, 1.0])
    features[3] = torch.tensor([0.0, 3.0])
    features[4] = torch.tensor([2.0, 0.0])
    features[[2, 5, 6]] = torch.tensor([[9.0, 9.0], [8.0, 8.0], [7.0, 7.0]])
    return features


def test_one_token_dropped_by_hand() -> None:
    # A quarter of four: token 1 of norm 1 goes. Scores with kept 0, 3, 4: 0, 1, 0. Marginals rows (1, 1, 1, 1) and
    # columns (1, 3). The plan's shares t of rows with score S are w x / (w x + 1), w = e^(S - z), one unknown x:
    # the column sums to one over all four rows, the dustbin row having w = 1.
    result = prune(small_features(), TWO, config=PruneConfig(ratio=0.25))
    assert result.positions.tolist() == [0, 2, 3, 4, 5, 6]
    weights = [math.exp(-0.2), math.exp(0.8), math.exp(-0.2), 1.0]
    low, high = 0.0, 10.0
    for _ in range(200):
        x = (low + high) / 2
        low, high = (x, high) if sum(w * x / (w * x + 1) for w in weights) < 1 else (low, x)
    shares = [w * x / (w * x + 1) for w in weights]
    wanted = [[4.0, 0.1 * shares[0]], [9.0, 9.0], [0.0, 3.0 + 0.1 * shares[1]], [2.0, 0.1 * shares[2]]]
    assert result.features[:4].tolist() == [pytest.approx(row, abs=1e-6) for row in wanted]
    assert result.features[4:].tolist() == [[8.0, 8.0], [7.0, 7.0]]


def test_the_dynamic_ratio_by_hand() -> None:
    # Of six pairs two are parallel: similarity 1/3. A white view: density 252/4096. Kept floor(4 * 0.687) = 2.
    result = prune(small_features(), TWO, torch.ones(3, 128, 128))
    facts = result.facts
    assert facts.similarity == pytest.approx(1 / 3)
    assert facts.density == 252 / 4096
    assert facts.ratio == pytest.approx((1 / 3) * (1 - 252 / 4096))
    assert (facts.free_before, facts.free_after) == (4, 2)
    assert (facts.tokens_before, facts.tokens_after) == (7, 5)
    assert result.positions.tolist() == [0, 2, 3, 5, 6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ratio_zero_changes_nothing(dtype: torch.dtype) -> None:
    features = torch.randn(73, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = prune(features, TokenLayout.deepseek_ocr(8), config=PruneConfig(ratio=0.0))
    assert torch.equal(result.features, features)
    assert result.positions.tolist() == list(range(73))
    assert result.facts.ratio == 0.0
    assert result.facts.tokens_after == 73


def test_ratio_one_leaves_a_newline_and_the_separator() -> None:
    features = small_features()
    result = prune(features, TWO, config=PruneConfig(ratio=1.0))
    assert result.positions.tolist() == [2, 6]
    assert torch.equal(result.features, features[[2, 6]])
    assert result.facts.free_after == 0


def test_a_fixed_ratio_needs_no_view_and_tells_no_similarity() -> None:
    facts = prune(small_features(), TWO, config=PruneConfig(ratio=0.5)).facts
    assert (facts.similarity, facts.density, facts.ratio) == (None, None, 0.5)


def test_a_single_free_token_stays() -> None:
    layout = TokenLayout.deepseek_ocr(1)
    result = prune(torch.ones(3, 4), layout, torch.ones(3, 64, 64))
    assert result.positions.tolist() == [0, 1, 2]
    assert result.facts.similarity == 0.0


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_identical_tokens_on_a_blank_page_are_pruned_without_nan(level: float) -> None:
    layout = TokenLayout.deepseek_ocr(4)
    result = prune(torch.ones(layout.length, 8), layout, torch.full((3, 256, 256), level))
    kept = math.floor(16 * (0.0 if level == 0 else 252 / 4096))
    assert result.facts.free_after == kept
    assert bool(result.features.isfinite().all())


def test_zero_tokens_stay_as_they_resemble_nothing() -> None:
    result = prune(torch.zeros(7, 4), TWO, torch.ones(3, 128, 128))
    assert result.facts.ratio == 0.0
    assert result.positions.numel() == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_largest_numbers_of_a_dtype_stay_finite(dtype: torch.dtype) -> None:
    features = torch.full((7, 4), torch.finfo(dtype).max, dtype=dtype)
    result = prune(features, TWO, config=PruneConfig(ratio=0.25))
    assert result.features.dtype == dtype
    assert bool(result.features.isfinite().all())


def test_the_caller_s_features_are_left_alone() -> None:
    features = small_features()
    before = features.clone()
    prune(features, TWO, config=PruneConfig(ratio=0.5))
    assert torch.equal(features, before)


def test_newlines_and_separator_take_no_part_in_the_ratio() -> None:
    features = small_features()
    view = torch.zeros(3, 128, 128)
    first = prune(features, TWO, view)
    features[[2, 5, 6]] = 1e4
    second = prune(features, TWO, view)
    assert first.facts == second.facts
    assert torch.equal(first.positions, second.positions)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": torch.zeros(8, 2)}, r"features must have shape \[7, D\].*got \(8, 2\)"),
        ({"features": torch.zeros(7)}, r"features must be a floating point tensor of shape \[L, D\]"),
        ({"features": torch.zeros(7, 0)}, r"features must have shape \[7, D\] with D >= 1"),
        ({"features": torch.zeros(7, 2, dtype=torch.int64)}, "features must be a floating point tensor.*int64"),
        ({"features": torch.full((7, 2), math.nan)}, "features must be finite, got NaN or infinity in 7 of 7"),
        ({"features": torch.full((7, 2), math.inf)}, "features must be finite"),
        ({"view": None}, r"view must be given for a dynamic ratio.*\[3, 128, 128\]"),
        ({"view": torch.zeros(3, 128, 64)}, r"view must be .*\[3, 128, 128\], got .*\(3, 128, 64\)"),
        ({"view": torch.zeros(3, 128, 128, dtype=torch.uint8)}, "view must be a floating point tensor.*uint8"),
        ({"view": torch.full((3, 128, 128), math.nan)}, "view must be finite"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": small_features(), "layout": TWO, "view": torch.zeros(3, 128, 128)}
    with pytest.raises(ValueError, match=message):
        prune(**(arguments | changed))


@pytest.mark.parametrize(
    "field",
    [
        {"ratio": -0.1},
        {"ratio": 1.1},
        {"ratio": math.nan},
        {"ratio": "off"},
        {"ratio": True},
        {"threshold": math.inf},
        {"dustbin": None},
        {"alpha": math.nan},
        {"regularisation": 0.0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        PruneConfig(**field)


@settings(max_examples=40, deadline=None)
@given(
    images=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.none() | st.tuples(st.integers(1, 2), st.integers(1, 2)),
            st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
            st.integers(0, 2**31),
        ),
        max_size=5,
    ),
    ratio=st.just("dynamic") | st.floats(0, 1),
)
def test_on_a_cpu_a_ragged_batch_is_pruned_bit_for_bit_as_its_images_alone(images: list[Any], ratio: Any) -> None:
    features, layouts, views = [], [], []
    for grid, tiles, dtype, seed in images:
        generator = torch.Generator().manual_seed(seed)
        layouts.append(TokenLayout.deepseek_ocr(grid, tiles, tile_grid=2))
        common = torch.randn(1, 24, generator=generator)
        features.append((torch.randn(layouts[-1].length, 24, generator=generator) + common).to(dtype))
        views.append(torch.rand(3, 64 * grid, 64 * grid, generator=generator) * 2 - 1)
    config = PruneConfig(ratio=ratio)
    together = prune_batch(features, layouts, views, config)
    assert len(together) == len(images)
    for found, *image in zip(together, features, layouts, views, strict=True):
        alone = prune(*image, config)
        assert torch.equal(found.features, alone.features)
        assert torch.equal(found.positions, alone.positions)
        assert found.facts == alone.facts


def test_a_batch_of_unlike_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="2 features, 1 layouts, 2 views, 2 cues"):
        prune_batch([small_features()] * 2, [TWO])


def test_one_bad_image_of_a_batch_is_told() -> None:
    bad = small_features()
    bad[3, 0] = math.nan
    with pytest.raises(ValueError, match="infinity in 1 of 7 tokens"):
        prune_batch([small_features(), bad], [TWO, TWO], config=PruneConfig(ratio=0.5))
