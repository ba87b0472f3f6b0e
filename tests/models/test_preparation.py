"""Pictures become the views that the original preparation makes of them, pixel for pixel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rtprune.errors import DocumentError
from rtprune.models.preparation import MODES, content_box, levels, prepare, tile_grid
from rtprune.models.protocol import normalised
from rtprune.pruning import TokenLayout
from tests.reference import synthetic_picture

SYNTHETIC = (
    "1401x1003",
    "600x501",
    "500x1901",
    "1281x640",
    "800x640",
    "2000x1600",
    "1500x1500",
    "700x700",
    "1003x1403",
)
REAL = (
    "newspaper_1cddf9d22ca549f3a86cf1512a3110cc_1.jpg",
    "yanbaopptmerge_SE05.pdf_7.jpg",
    "notes_1ba14cb325bc448f7201b20502ecf2b5_15.jpg",
)


@pytest.fixture(scope="module")
def original(shared_data: Path) -> dict[str, Any]:
    """What the original code made of each picture, with a Pillow that resizes as ours."""
    file = shared_data / "deepseek-ocr" / "reference" / "preparation_reference_pillow11.json"
    images: dict[str, Any] = json.loads(file.read_text())["images"]
    return images


def bytes_digest(normalised: Tensor) -> str:
    """SHA-256 of the 8-bit pixels [H, W, 3] that a view was normalised from."""
    pixels = torch.round((normalised.double() * 0.5 + 0.5) * 255).to(torch.uint8)
    return hashlib.sha256(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).hexdigest()


def assert_prepared_as_originally(picture: Image.Image, truth: dict[str, Any]) -> None:
    decoded = hashlib.sha256(np.array(picture.convert("RGB")).tobytes()).hexdigest()
    assert decoded == truth["decoded_rgb_sha256"], "the picture itself decodes otherwise here"
    assert set(truth["modes"]) == set(MODES)
    for mode, expected in truth["modes"].items():
        views = prepare(picture, mode)
        assert bytes_digest(views.global_view) == expected["global_view_sha256"], mode
        tiles = [] if views.tiles is None else [bytes_digest(tile) for tile in views.tiles]
        assert tiles == expected["tile_sha256"], mode
        assert list(views.grid) == expected["crop_grid_columns_rows"], mode
        assert list(views.content_box) == expected["content_box_x_y_w_h"], mode
        assert views.layout.length == expected["layout"]["image_ids"], mode
        assert views.global_view.double().mean().item() == pytest.approx(expected["normalised_global_mean"], abs=1e-6)
        assert views.picture_size == (truth["width"], truth["height"])


@pytest.mark.parametrize("size", SYNTHETIC)
def test_drawn_pictures_are_prepared_as_by_the_original(size: str, original: dict[str, Any]) -> None:
    name = f"synthetic_{size}"
    assert_prepared_as_originally(synthetic_picture(name), original[name])


@pytest.mark.parametrize("name", REAL)
def test_real_pages_are_prepared_as_by_the_original(name: str, original: dict[str, Any], shared_data: Path) -> None:
    with Image.open(shared_data / "omnidocbench" / name) as picture:
        assert_prepared_as_originally(picture, original[name])


def test_the_reference_holds_no_picture_that_is_not_tested(original: dict[str, Any]) -> None:
    assert set(original) == {f"synthetic_{size}" for size in SYNTHETIC} | set(REAL)


def test_every_grey_level_is_normalised_exactly() -> None:
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    view = normalised(levels(Image.fromarray(np.stack([shades] * 3, axis=-1))))
    by_hand = [(np.float32(level) / np.float32(255) - np.float32(0.5)) / np.float32(0.5) for level in range(256)]
    assert view.shape == (3, 16, 16)
    assert view.dtype == torch.float32
    assert view[2].flatten().tolist() == [float(value) for value in by_hand]
    assert view.min() == -1
    assert view.max() == 1


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (641, 10, (9, 1)),  # wider than any grid: the widest
        (10, 641, (1, 9)),
        (1281, 640, (2, 1)),
        (992, 1419, (2, 3)),  # 0.699 lies nearest 2/3
        (700, 700, (2, 2)),  # 1: 2x2 comes first; 3x3 takes over only above half of its pixels
        (1357, 1357, (2, 2)),  # 1,841,449 pixels: just below half of 3x3's 3,686,400 = 1,843,200
        (1358, 1358, (3, 3)),  # 1,844,164: just above
        (800, 640, (2, 2)),  # 1.25 lies between 1 and 3/2, as near to both: 2x2 (4 tiles) came before 3x2 ...
        (2000, 1600, (3, 3)),  # ... and with many pixels the latest of the tied, 3x3, wins
    ],
)
def test_the_tile_grid_follows_the_shape(width: int, height: int, grid: tuple[int, int]) -> None:
    assert tile_grid(width, height) == grid


@given(st.integers(1, 20_000), st.integers(1, 20_000))
@settings(max_examples=60, deadline=None)
def test_no_grid_of_two_to_nine_tiles_is_nearer_the_shape(width: int, height: int) -> None:
    columns, rows = tile_grid(width, height)
    assert 2 <= columns * rows <= 9
    others = [(a, b) for a in range(1, 10) for b in range(1, 10) if 2 <= a * b <= 9]
    assert abs(width / height - columns / rows) == min(abs(width / height - a / b) for a, b in others)


def test_a_small_picture_is_not_cut() -> None:
    views = prepare(Image.new("RGB", (640, 640)), "gundam")
    assert views.tiles is None
    assert views.grid == (1, 1)
    assert views.layout == TokenLayout.deepseek_ocr(16)


def test_tiles_run_row_by_row() -> None:
    picture = Image.new("RGB", (1280, 1920))
    colours = [(40 * index, 255 - 40 * index, 7) for index in range(6)]
    for index, colour in enumerate(colours):
        column, row = index % 2, index // 2
        picture.paste(colour, (640 * column, 640 * row, 640 * column + 640, 640 * row + 640))
    views = prepare(picture, "gundam")
    assert views.grid == (2, 3)
    assert views.tiles is not None
    middles = [tuple(round((value + 1) * 127.5) for value in tile[:, 320, 320].tolist()) for tile in views.tiles]
    assert middles == colours


@pytest.mark.parametrize(
    ("mode", "tokens"), [("tiny", 73), ("small", 111), ("base", 273), ("large", 421), ("gundam", 693)]
)
def test_sequence_lengths_are_those_of_the_modes(mode: str, tokens: int) -> None:
    views = prepare(Image.new("L", (1000, 1000)), mode)  # gundam: 2 x 2 tiles, 20 * 21 + 273
    assert views.layout.length == tokens
    assert views.mode == mode


@pytest.mark.parametrize("picture_mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_kind_of_pixels_becomes_rgb(picture_mode: str) -> None:
    page = Image.new("RGB", (30, 20), "white")
    page.paste("black", (0, 0, 15, 20))
    view = prepare(page.convert(picture_mode), "tiny").global_view
    assert view.shape == (3, 512, 512)
    assert view[:, :, :200].max() < -0.9
    assert view[:, :, -200:].min() > 0.9


def test_a_sideways_photograph_is_turned_upright() -> None:
    picture = Image.new("RGB", (100, 200), "white")
    picture.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise
    views = prepare(picture, "base")
    assert views.picture_size == (200, 100)
    assert views.content_box == (0, 256, 1024, 512)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_a_picture_without_pixels_is_the_documents_fault(size: tuple[int, int]) -> None:
    with pytest.raises(DocumentError, match=rf"no pixels: {size[0]} x {size[1]}") as caught:
        prepare(Image.new("RGB", size), "tiny")
    assert caught.value.reason == "empty-picture"


@pytest.mark.parametrize("mode", ["base", "large", "gundam"])
def test_a_picture_that_would_vanish_is_the_documents_fault(mode: str) -> None:
    with pytest.raises(DocumentError, match="vanishes") as caught:
        prepare(Image.new("RGB", (9000, 1)), mode)
    assert caught.value.reason == "too-thin"
    assert prepare(Image.new("RGB", (9000, 1)), "tiny").content_box == (0, 0, 512, 512)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([1024, 1280]))
@settings(max_examples=60, deadline=None)
def test_the_picture_lies_in_the_middle_of_the_view(width: int, height: int, side: int) -> None:
    left, top, shown_width, shown_height = content_box(width, height, side)
    assert max(shown_width, shown_height) == side
    assert abs(side - shown_width - 2 * left) <= 1
    assert abs(side - shown_height - 2 * top) <= 1
    assert abs(shown_width * height - shown_height * width) <= max(width, height)
