"""The overlay shades what was pruned, leaves the rest clear, and has a panel for each grid of tokens."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from rtprune.errors import UsageError
from rtprune.models import native
from rtprune.models.preparation import prepare
from rtprune.models.protocol import Views
from rtprune.pruning import PruneConfig, TokenLayout, prune
from rtprune.report.overlay import CAPTION_HEIGHT, KEPT, MARGIN, PANEL_SIDE, PRUNED, STRONGEST_TINT, draw_overlay


def drawn(views: Views, norms: torch.Tensor, ratio: float) -> Image.Image:
    features = torch.eye(len(norms)) * norms[:, None]
    return draw_overlay(views, features, prune(features, views.layout, config=PruneConfig(ratio=ratio)))


def centre(sheet: Image.Image, row: int, column: int, grid: int, left: int = MARGIN) -> tuple[int, ...]:
    cell = PANEL_SIDE / grid
    pixel = sheet.getpixel((left + int((column + 0.5) * cell), MARGIN + int((row + 0.5) * cell)))
    assert isinstance(pixel, tuple)
    return pixel


def over_white(colour: tuple[int, ...], share: float) -> list[object]:
    return [pytest.approx(255 - share * (255 - value), abs=2) for value in colour[:3]]


def test_each_token_is_drawn_where_it_looks() -> None:
    views = prepare(Image.new("RGB", (500, 500), "white"), "tiny")
    norms = torch.ones(73)
    norms[1 * 9 + 3] = 3.0  # row 1, column 3: the largest; rows of the sequence end in a newline
    norms[5 * 9 + 2] = 0.5  # row 5, column 2: the smallest, and the only one that is pruned
    sheet = drawn(views, norms, 1 / 64)
    assert sheet.size == (PANEL_SIDE + 2 * MARGIN, PANEL_SIDE + CAPTION_HEIGHT + 2 * MARGIN)
    assert list(centre(sheet, 1, 3, 8)) == over_white(KEPT, STRONGEST_TINT)
    assert list(centre(sheet, 5, 2, 8)) == over_white(PRUNED, PRUNED[3] / 255)
    assert list(centre(sheet, 0, 0, 8)) == over_white(KEPT, STRONGEST_TINT * 0.5 / 2.5)


def test_tiles_have_a_panel_of_their_own() -> None:
    views = prepare(Image.new("RGB", (1280, 1280), "white"), "gundam")
    assert views.grid == (2, 2)
    norms = torch.ones(views.layout.length)
    norms[7 * 21 + 12] = 0.5  # row 7, column 12 of the stitched 20 x 20
    sheet = drawn(views, norms, 1 / 600)
    assert sheet.width == 2 * PANEL_SIDE + 3 * MARGIN
    assert list(centre(sheet, 7, 12, 20, PANEL_SIDE + 2 * MARGIN)) == over_white(PRUNED, PRUNED[3] / 255)
    assert list(centre(sheet, 7, 12, 16)) != over_white(PRUNED, PRUNED[3] / 255)


def test_a_grid_that_is_not_square_keeps_its_shape() -> None:
    views = native.prepare(Image.new("RGB", (560, 280), "white"), lambda width, height: (20, 10))
    norms = torch.ones(200)
    norms[3 * 20 + 15] = 0.5  # row 3, column 15
    sheet = drawn(views, norms, 1 / 200)
    assert sheet.size == (PANEL_SIDE + 2 * MARGIN, PANEL_SIDE // 2 + CAPTION_HEIGHT + 2 * MARGIN)
    assert list(centre(sheet, 3, 15, 20)) == over_white(PRUNED, PRUNED[3] / 255)


def test_tokens_that_stand_for_no_place_are_not_drawn() -> None:
    views = prepare(Image.new("RGB", (300, 300), "white"), "base", layout=TokenLayout.deepseek_ocr2)
    with pytest.raises(UsageError, match="stand for no place on the page"):
        drawn(views, torch.ones(257), 0.25)


def test_a_narrow_page_leaves_room_for_its_caption() -> None:
    views = native.prepare(Image.new("RGB", (56, 280), "white"), lambda width, height: (2, 10))
    sheet = drawn(views, torch.linspace(1, 2, 20), 0.25)
    caption = sheet.crop((0, sheet.height - CAPTION_HEIGHT, sheet.width, sheet.height)).convert("L")
    ink = caption.point(lambda level: 255 * (level < 128)).getbbox()
    assert ink is not None
    assert 0 < ink[0] < ink[2] <= sheet.width - MARGIN
    assert sheet.width > PANEL_SIDE // 5 + 2 * MARGIN
