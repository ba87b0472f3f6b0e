"""The package against the specification, written out in plain numpy: float64, one loop per sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtprune.pruning import PruneConfig, Pruned, TokenLayout, prune

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    features: Array
    positions: list[int]
    ratio: float
    similarity: float | None
    density: float | None


def density(view: Array, side: int = 64, threshold: float = 0.2) -> float:
    luma = 0.299 * view[0] + 0.587 * view[1] + 0.114 * view[2]
    shares = []
    for top in range(0, luma.shape[0], side):
        for left in range(0, luma.shape[1], side):
            patch = np.zeros((side + 2, side + 2))
            patch[1:-1, 1:-1] = luma[top : top + side, left : left + side]
            gx, gy = np.zeros((side, side)), np.zeros((side, side))
            for row, column, weight in [(0, 2, 1), (1, 2, 2), (2, 2, 1), (0, 0, -1), (1, 0, -2), (2, 0, -1)]:
                gx += weight * patch[row : row + side, column : column + side]
                gy += weight * patch[column : column + side, row : row + side]
            shares.append(np.mean(np.sqrt(gx**2 + gy**2) > threshold))
    return float(np.mean(shares))


def cosine(one: Array, other: Array) -> float:
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norms) if norms > 0 else 0.0


def similarity(tokens: Array) -> float:
    pairs = [cosine(a, b) ** 2 for i, a in enumerate(tokens) for j, b in enumerate(tokens) if i != j]
    return float(np.mean(pairs)) if pairs else 0.0


def log_sum_exp(values: Array, axis: int) -> Array:
    top = values.max(axis=axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(values - top).sum(axis=axis))


def plan(scores: Array, steps: int = 100) -> Array:
    kept, dropped = scores.shape
    augmented = np.full((kept + 1, dropped + 1), 0.2)
    augmented[:kept, :dropped] = scores
    log_a = np.log(np.array([1.0] * kept + [float(dropped)]))
    log_b = np.log(np.array([1.0] * dropped + [float(kept)]))
    f, g = np.zeros(kept + 1), np.zeros(dropped + 1)
    for _ in range(steps):
        f = log_a - log_sum_exp(augmented + g[None, :], axis=1)
        g = log_b - log_sum_exp(augmented + f[:, None], axis=0)
    return np.exp(augmented + f[:, None] + g[None, :])[:kept, :dropped]


def expected(features: Array, kinds: str, view: Array, ratio: float | None, patch: int = 64) -> Expected:
    """``kinds`` spells the layout: ``.`` free, ``n`` newline, ``s`` separator. No ratio is the dynamic one."""
    free = [position for position, kind in enumerate(kinds) if kind == "."]
    tokens = features[free]
    similar = dense = None
    if ratio is None:
        similar, dense = similarity(tokens), density(view, patch)
        ratio = similar * (1 - dense)
    count = math.floor(len(free) * (1 - ratio) + 1e-9)  # 1e-9: rounding must not cost a token
    by_norm = sorted(free, key=lambda position: (-np.float32(math.sqrt(math.fsum(features[position] ** 2))), position))
    kept, dropped = sorted(by_norm[:count]), sorted(by_norm[count:])
    merged = features.copy()
    if kept and dropped:
        scores = np.array([[cosine(features[i], features[j]) for j in dropped] for i in kept])
        merged[kept] += 0.1 * plan(scores) @ features[dropped]
    positions: list[int] = []
    for position, kind in enumerate(kinds):
        if kind == "." and position not in kept:
            continue
        if kind == "n" and dropped and positions and kinds[positions[-1]] == "n":
            continue
        positions.append(position)
    return Expected(merged[positions], positions, ratio, similar, dense)


def spelled(layout: TokenLayout) -> str:
    return "".join(".ns"[kind] for kind in layout.kinds.tolist())


def check(result: Pruned, wanted: Expected, tolerance: float) -> None:
    assert result.positions.tolist() == wanted.positions
    assert result.facts.ratio == pytest.approx(wanted.ratio, abs=1e-6)
    assert result.facts.similarity == (
        None if wanted.similarity is None else pytest.approx(wanted.similarity, abs=1e-6)
    )
    assert result.facts.density == (None if wanted.density is None else pytest.approx(wanted.density, abs=1e-6))
    found = result.features.double().numpy()
    assert found.shape == wanted.features.shape
    if not wanted.positions:
        return
    scale = np.abs(wanted.features).max()
    assert np.isfinite(found).all()
    assert np.abs(found - wanted.features).max() <= tolerance * max(scale, 1e-30)


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
def test_any_sequence_is_pruned_as_the_specification_says(
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
    wanted = expected(features.double().numpy(), spelled(layout), view.double().numpy(), ratio, layout.patch)
    config = PruneConfig(ratio="dynamic" if ratio is None else ratio)
    check(prune(features, layout, view, config), wanted, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "layout",
    [*(TokenLayout.deepseek_ocr(grid) for grid in (8, 10, 16, 20)), TokenLayout.deepseek_ocr(16, tiles=(2, 1))],
    ids=["tiny", "small", "base", "large", "gundam 2x1"],
)
@pytest.mark.parametrize("ratio", [None, 0.25])
def test_published_modes_are_pruned_as_the_specification_says(layout: TokenLayout, ratio: float | None) -> None:
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(layout.length, 1280, generator=generator) + 0.8 * torch.randn(1, 1280, generator=generator)
    view = view_of(layout, "page", generator)
    wanted = expected(features.double().numpy(), spelled(layout), view.double().numpy(), ratio)
    check(prune(features, layout, view, PruneConfig(ratio="dynamic" if ratio is None else ratio)), wanted, 1e-5)
