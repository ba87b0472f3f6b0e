"""Images in one pass, as a GPU takes them: what they give alone, in few operations and one wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtprune.pruning import PruneConfig, TokenLayout, prune, prune_batch, tokens
from rtprune.pruning.reference import prune_as_published
from rtprune.pruning.transport import by_pot, enough_steps, scaled_plans
from tests.operations import Operations


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is given images as a GPU is."""
    monkeypatch.setattr(tokens, "CACHED", ())


def page(layout: TokenLayout, seed: int, dtype: torch.dtype = torch.float32, width: int = 32) -> tuple[Tensor, Tensor]:
    """Features that resemble each other, some of them zero or alike, and a view with something on it."""
    chance = torch.Generator().manual_seed(seed)
    features = torch.randn(layout.length, width, generator=chance) + 2 * torch.rand((), generator=chance)
    features[torch.rand(layout.length, generator=chance) < 0.1] = 0.0
    features[torch.rand(layout.length, generator=chance) < 0.1] = 1.0
    view = torch.rand(layout.view_shape, generator=chance) * 2 - 1
    view[:, : int(layout.view_shape[1] * torch.rand((), generator=chance))] = 1.0
    return features.to(dtype), view


@pytest.mark.usefixtures("uncached")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    images=st.lists(
        st.tuples(st.integers(1, 3), st.none() | st.just((1, 2)), st.sampled_from([torch.float32, torch.bfloat16])),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**31),
    ratio=st.just("dynamic") | st.floats(0, 1),
    regularisation=st.sampled_from([0.2, 1.0, 5.0]),
)
def test_the_same_tokens_stay_with_the_same_features(
    images: list[Any], seed: int, ratio: Any, regularisation: float
) -> None:
    layouts = [TokenLayout.deepseek_ocr(grid, tiles, tile_grid=2) for grid, tiles, _ in images]
    drawn = [
        page(layout, seed + number, image[2])
        for number, (layout, image) in enumerate(zip(layouts, images, strict=True))
    ]
    features, views = [one for one, _ in drawn], [view for _, view in drawn]
    config = PruneConfig(ratio=ratio, regularisation=regularisation)
    found = prune_batch(features, layouts, views, config)
    for mine, layout, view, image in zip(features, layouts, views, found, strict=True):
        alone = prune(mine, layout, view, config)
        assert torch.equal(image.positions, alone.positions)
        near = 1e-6 if mine.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(image.features, alone.features, atol=near, rtol=near)
        assert image.facts.free_after == alone.facts.free_after
        assert image.facts.ratio == pytest.approx(alone.facts.ratio, abs=1e-9)
        if image.facts.tokens_after == layout.length:
            assert image.features is mine, "what loses nothing is given back"


@pytest.mark.usefixtures("uncached")
def test_all_images_are_pruned_as_published() -> None:
    layout = TokenLayout.deepseek_ocr(6)
    drawn = [page(layout, seed, torch.float64) for seed in range(5)]
    found = prune_batch([one for one, _ in drawn], [layout] * 5, [view for _, view in drawn])
    assert len({image.facts.free_after for image in found}) > 2, "pages that differ"
    for image, (features, view) in zip(found, drawn, strict=True):
        wanted, positions = prune_as_published(features, layout, view.double())
        assert torch.equal(image.positions, positions)
        torch.testing.assert_close(image.features, wanted, atol=1e-6, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(any), min_size=1, max_size=4),
    dustbin=st.floats(-1, 1),
    regularisation=st.floats(0.15, 5),
    seed=st.integers(0, 2**31),
)
def test_padded_plans_are_pot_s_and_hold_nothing_where_they_are_padded(
    shapes: list[tuple[int, int]], dustbin: float, regularisation: float, seed: int
) -> None:
    most_rows, most_columns = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    scores = torch.rand(len(shapes), most_rows, most_columns, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    rows, columns = torch.zeros(len(shapes), most_rows + 1), torch.zeros(len(shapes), most_columns + 1)
    for number, (kept, dropped) in enumerate(shapes):
        rows[number, :kept], rows[number, -1] = 1.0, dropped
        columns[number, :dropped], columns[number, -1] = 1.0, kept
    top, bottom = max(1.0, dustbin), min(-1.0, dustbin)
    plans = scaled_plans(
        scores.double(),
        rows.double(),
        columns.double(),
        dustbin,
        regularisation,
        top=top,
        steps=enough_steps((top - bottom) / regularisation),
    )
    for number, (kept, dropped) in enumerate(shapes):
        plan = plans[number]
        if kept and dropped:
            wanted = by_pot(scores[number, :kept, :dropped].double(), dustbin, regularisation)
            torch.testing.assert_close(plan[:kept, :dropped], wanted, atol=1e-6, rtol=0)
        assert not plan[kept:].any()
        assert not plan[:, dropped:].any()
        assert plan.isfinite().all()


@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize("count", [1, 16])
def test_sixteen_pages_take_no_more_operations_than_one_and_one_wait(count: int) -> None:
    layout = TokenLayout.deepseek_ocr(20)
    drawn = [page(layout, seed, width=64) for seed in range(count)]
    features, views = [one for one, _ in drawn], [view for _, view in drawn]
    prune_batch(features, [layout] * count, views)  # constants are made once
    waits = []
    cpu = Tensor.cpu
    with pytest.MonkeyPatch.context() as patch, Operations() as operations:
        patch.setattr(Tensor, "cpu", lambda self: waits.append(self) or cpu(self))
        found = prune_batch(features, [layout] * count, views)
    assert all(0 < image.facts.free_after < 400 for image in found)
    assert len(waits) == 1
    assert not {"nonzero", "local_scalar_dense", "item", "masked_select"} & operations.counts.keys()
    assert operations.counts.total() <= 150, operations.counts
