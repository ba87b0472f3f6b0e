"""Every method behind the one call: the ablations by hand, and what holds for all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.pruning import MERGES, METHODS, SCORES, Cues, PruneConfig, TokenLayout, prune, prune_batch
from rtprune.pruning.methods import entropies, variances
from rtprune.pruning.selection import kept_count


def row_of(count: int) -> TokenLayout:
    """``count`` free tokens side by side."""
    return TokenLayout.plain(count, 1, 64)


def cues_for(layout: TokenLayout, width: int, seed: int) -> Cues:
    generator = torch.Generator().manual_seed(seed)
    return Cues(
        prompt=torch.randn(3, width, generator=generator),
        attention=torch.rand(layout.free_count, generator=generator),
        keys=torch.randn(layout.free_count, 5, generator=generator),
    )


def test_variance_and_entropy_by_hand() -> None:
    tokens = torch.tensor([[1.0, -1.0, 1.0, -1.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, math.log(3)]])
    assert variances(tokens).tolist() == pytest.approx([1.0, 0.0, 3 / 16 * math.log(3) ** 2])
    # the softmax of the last is 1/6 three times and 1/2; a constant's is a quarter four times
    assert entropies(tokens)[1:].tolist() == pytest.approx([math.log(4), 3 / 6 * math.log(6) + math.log(2) / 2])


@pytest.mark.parametrize(("score", "kept"), [("l2-norm", [1, 3]), ("variance", [0, 3]), ("entropy", [1, 2])])
def test_each_score_keeps_its_own_tokens(score: Any, kept: list[int]) -> None:
    # norms 2, 6, 0, 8; variances 1, 0, 0, 16; entropies: the two constants have the largest there is
    features = torch.tensor([[1.0, -1, 1, -1], [3.0, 3, 3, 3], [0.0, 0, 0, 0], [4.0, -4, 4, -4]])
    config = PruneConfig(ratio=0.5, score=score, merge="none")
    result = prune(features, row_of(4), config=config)
    assert result.positions.tolist() == kept
    assert torch.equal(result.features, features[kept])


def test_nearest_merge_by_hand() -> None:
    # Of norms 5, 4, 2, 1, 1 the first two stay. (2, 0) and (1, 0) resemble (5, 0) alone, (0, 1) resembles (0, 4).
    features = torch.tensor([[5.0, 0], [0.0, 4], [2.0, 0], [0.0, 1], [1.0, 0]])
    result = prune(features, row_of(5), config=PruneConfig(ratio=0.6, merge="nearest"))
    assert result.positions.tolist() == [0, 1]
    assert result.features.tolist() == [pytest.approx([8 / 3, 0]), pytest.approx([0, 2.5])]


def test_a_token_as_near_to_two_goes_to_the_first() -> None:
    features = torch.tensor([[3.0, 0], [0.0, 3], [1.0, 1]])
    result = prune(features, row_of(3), config=PruneConfig(ratio=0.3, merge="nearest"))
    assert result.features.tolist() == [[2.0, 0.5], [0.0, 3.0]]


def test_random_keeps_the_same_tokens_of_any_page_and_others_with_another_seed() -> None:
    layout = row_of(40)
    pages = [torch.randn(40, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    kept = [prune(page, layout, config=PruneConfig(ratio=0.5, method="random")) for page in pages]
    assert kept[0].positions.tolist() == kept[1].positions.tolist()
    assert torch.equal(kept[0].features, pages[0][kept[0].positions])
    other = prune(pages[0], layout, config=PruneConfig(ratio=0.5, method="random", seed=1))
    assert other.positions.tolist() != kept[0].positions.tolist()


WAYS = [
    *({"score": score, "merge": merge} for score in SCORES for merge in MERGES),
    *({"method": method} for method in METHODS if method != "rtprune"),
]


@settings(max_examples=150, deadline=None)
@given(
    way=st.sampled_from(WAYS),
    grid=st.integers(1, 4),
    tiles=st.none() | st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ratio=st.just("dynamic") | st.sampled_from([0.0, 0.25, 0.9, 1.0]) | st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    tokens=st.sampled_from(["random", "identical", "zero", "some zero", "huge"]),
    seed=st.integers(0, 2**31),
)
def test_any_way_keeps_the_number_asked_for_in_order_and_finite(
    way: dict[str, Any], grid: int, tiles: tuple[int, int] | None, ratio: Any, dtype: Any, tokens: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layout = TokenLayout.deepseek_ocr(grid, tiles, tile_grid=2)
    features = torch.randn(layout.length, 7, generator=generator)
    if tokens == "identical":
        features = features[:1].expand(layout.length, -1)
    elif tokens == "zero":
        features = torch.zeros_like(features)
    elif tokens == "some zero":
        features = features * (torch.rand(layout.length, 1, generator=generator) > 0.5)
    elif tokens == "huge":
        features = features.sign() * torch.finfo(dtype).max
    features = features.to(dtype)
    view = torch.rand(3, 64 * grid, 64 * grid, generator=generator) * 2 - 1
    cues = cues_for(layout, 7, seed)
    result = prune(features, layout, view, PruneConfig(ratio=ratio, **way), cues)
    facts = result.facts
    assert facts.free_after == kept_count(layout.free_count, facts.ratio)
    assert int(layout.free[result.positions].sum()) == facts.free_after
    positions = result.positions.tolist()
    assert positions == sorted(set(positions))
    assert result.features.shape == (len(positions), 7)
    assert result.features.dtype == dtype
    assert bool(result.features.isfinite().all())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way.values()))
def test_a_batch_is_pruned_bit_for_bit_as_its_images_alone(way: dict[str, Any]) -> None:
    config = PruneConfig(ratio=0.4, **way)
    layouts = [TokenLayout.deepseek_ocr(3), TokenLayout.deepseek_ocr(5, (2, 1), 2), TokenLayout.plain(7, 4, 28)]
    images = [torch.randn(layout.length, 9, generator=torch.Generator().manual_seed(3)) for layout in layouts]
    cues = [cues_for(layout, 9, seed) for seed, layout in enumerate(layouts)]
    for found, features, layout, cue in zip(
        prune_batch(images, layouts, None, config, cues), images, layouts, cues, strict=True
    ):
        alone = prune(features, layout, config=config, cues=cue)
        assert torch.equal(found.features, alone.features)
        assert torch.equal(found.positions, alone.positions)


@pytest.mark.parametrize(
    ("method", "cues", "message"),
    [
        ("cdpruner", None, "cues.prompt must be given for the method 'cdpruner'"),
        ("visionzip", Cues(prompt=torch.ones(2, 2)), "cues.attention must be given for the method 'visionzip'"),
        ("cdpruner", Cues(prompt=torch.ones(2, 3)), r"cues.prompt must be .* shape \[any, 2\], got .*\(2, 3\)"),
        ("visionzip", Cues(attention=torch.ones(3)), r"cues.attention must be .* shape \[4\], got .*\(3,\)"),
        ("visionzip", Cues(attention=torch.ones(4, dtype=torch.int64)), "cues.attention must be a floating point"),
        ("visionzip", Cues(attention=torch.full((4,), math.nan)), "cues.attention must be finite"),
        ("visionzip", Cues(attention=torch.ones(4), keys=torch.ones(5, 2)), r"cues.keys .* shape \[4, any\]"),
    ],
)
def test_cues_that_do_not_fit_are_named(method: Any, cues: Cues | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(torch.ones(4, 2), row_of(4), config=PruneConfig(ratio=0.5, method=method), cues=cues)


@pytest.mark.parametrize("field", ["method", "score", "merge", "solver"])
@pytest.mark.parametrize("value", ["fastv", None, ["transport"]])
def test_names_that_are_not_registered_are_refused_with_those_that_are(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must be one of '.*', got"):
        PruneConfig(**{field: value})
