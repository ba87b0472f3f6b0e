"""The package gives what the published formulation gives, on any sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.bench.prune import page, random_features
from rtprune.models.preparation import prepare
from rtprune.pruning import PruneConfig, TokenLayout, prune
from rtprune.pruning.reference import density, prune_as_published, similarity


def check(
    features: torch.Tensor,
    layout: TokenLayout,
    view: torch.Tensor,
    ratio: float | None,
    tolerance: float,
    dtype: torch.dtype = torch.float64,
) -> None:
    """The published formulation, computed in ``dtype``, keeps the same tokens and gives them the same features."""
    found = prune(features, layout, view, PruneConfig(ratio="dynamic" if ratio is None else ratio))
    exact, wide_view = features.to(dtype), view.to(dtype)
    wanted, positions = prune_as_published(exact, layout, wide_view, ratio)
    assert found.positions.tolist() == positions.tolist()
    assert found.features.shape == wanted.shape
    assert bool(found.features.isfinite().all())
    if len(positions):
        scale = max(float(wanted.abs().max()), 1e-30)
        assert float((found.features.to(dtype) - wanted).abs().max()) <= tolerance * scale
    if ratio is None:
        similar, dense = similarity(exact[layout.free]), density(wide_view, layout.patch)
        assert found.facts.similarity == pytest.approx(similar, abs=1e-6)
        assert found.facts.density == pytest.approx(dense, abs=1e-6)
        assert found.facts.ratio == pytest.approx(similar * (1 - dense), abs=1e-6)
    else:
        assert (found.facts.similarity, found.facts.density, found.facts.ratio) == (None, None, ratio)


def view_of(layout: TokenLayout, kind: str, generator: torch.Generator) -> torch.Tensor:
    """A view like those that pictures give: levels 0..255 scaled to [-1, 1]."""
    _, height, width = layout.view_shape
    if kind == "noise":
        levels = torch.randint(0, 256, layout.view_shape, generator=generator)
    elif kind == "page":
        blocks = torch.randint(0, 2, (1, height // 14, width // 14), generator=generator) * 255
        wide = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
        levels = wide[:, :height, :width].expand(3, -1, -1)
    else:
        levels = torch.full(layout.view_shape, {"white": 255, "black": 0, "grey": 127}[kind])
    return (levels.float() / 255 - 0.5) / 0.5


SIDE = st.integers(1, 5)
TILES = st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3))
LAYOUTS = st.one_of(
    st.builds(TokenLayout.deepseek_ocr, SIDE, TILES, st.just(2)),
    st.builds(TokenLayout.deepseek_ocr2, SIDE, TILES, st.just(2)),
    st.builds(TokenLayout.plain, SIDE, SIDE, st.just(28)),
)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@settings(max_examples=100, deadline=None)
@given(
    layout=LAYOUTS,
    ratio=st.none() | st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1),
    dtype=st.sampled_from(list(TOLERANCE)),
    tokens=st.sampled_from(["random", "alike", "identical", "zero", "some zero", "tied norms"]),
    page=st.sampled_from(["noise", "page", "white", "black", "grey"]),
    seed=st.integers(0, 2**31),
)
def test_any_sequence_is_pruned_as_published(
    layout: TokenLayout,
    ratio: float | None,
    dtype: torch.dtype,
    tokens: str,
    page: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(layout.length, 12, generator=generator)
    if tokens == "alike":
        features = 0.2 * features + torch.randn(1, 12, generator=generator)
    elif tokens == "identical":
        features = features[:1].expand(layout.length, -1)
    elif tokens == "zero":
        features = torch.zeros_like(features)
    elif tokens == "some zero":
        features = features * (torch.rand(layout.length, 1, generator=generator) > 0.5)
    elif tokens == "tied norms":  # the same numbers in another order: equal norms, unequal directions
        features = torch.stack([features[0][torch.randperm(12, generator=generator)] for _ in range(layout.length)])
    features = features.to(dtype)
    view = view_of(layout, page, generator)
    check(features, layout, view, ratio, TOLERANCE[dtype])


@pytest.mark.parametrize("mode", ["tiny", "small", "base", "large", "gundam"])
@pytest.mark.parametrize("ratio", [None, 0.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pages_of_the_published_sizes_are_pruned_as_published(
    mode: str, ratio: float | None, dtype: torch.dtype
) -> None:
    views = prepare(page(), mode)
    features = random_features(views)
    check(features, views.layout, views.global_view, ratio, 1e-5, dtype)
    kept = prune(features, views.layout, views.global_view, PruneConfig(ratio="dynamic" if ratio is None else ratio))
    assert 0 < kept.facts.free_after < kept.facts.free_before, "else nothing was compared"
