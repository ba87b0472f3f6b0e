"""Picture -> views, pixel for pixel as DeepSeek-OCR's own preparation and its kin's, with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rtprune.errors import DocumentError, Reason
from rtprune.models.protocol import Views
from rtprune.pruning import TokenLayout

PIXELS_PER_TOKEN = 64
TILE_SIDE = 640
MOST_TILES = 9
_GREY = (127, 127, 127)


@dataclass(frozen=True)
class Mode:
    """A view size.

    Attributes:
        side: of the global view in pixels.
        most_tiles: how many tiles a large picture is cut into as well, at most; 0 for none.
        tile_side: of a tile in pixels; what is no larger is not cut.
    """

    side: int
    most_tiles: int = 0
    tile_side: int = TILE_SIDE


MODES = {
    "tiny": Mode(512),
    "small": Mode(640),
    "base": Mode(1024),
    "large": Mode(1280),
    "gundam": Mode(1024, MOST_TILES),
}


def prepare(
    picture: Image.Image,
    mode: str,
    modes: Mapping[str, Mode] = MODES,
    layout: Callable[[int, tuple[int, int] | None, int], TokenLayout] = TokenLayout.deepseek_ocr,
) -> Views:
    """The views of a picture in one of ``modes``.

    Args:
        layout: side of the global view in tokens, grid of the tiles, side of a tile in tokens -> the visual sequence.

    Raises:
        DocumentError: the picture has no pixels, or is so thin that nothing of it is left in the view.
    """
    if picture.width < 1 or picture.height < 1:
        raise DocumentError(Reason.EMPTY_PICTURE, f"the picture has no pixels: {picture.width} x {picture.height}")
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    size = modes[mode]
    view, content_box = _global_view(upright, size)
    tiles, grid = None, (1, 1)
    if size.most_tiles and max(upright.size) > size.tile_side:
        grid = tile_grid(*upright.size, size.most_tiles, size.tile_side)
        tiles = _tiles(upright, grid, size.tile_side)
    sequence = layout(
        size.side // PIXELS_PER_TOKEN, None if tiles is None else grid, size.tile_side // PIXELS_PER_TOKEN
    )
    return Views(mode, levels(view), tiles, grid, sequence, content_box, upright.size)


def levels(view: Image.Image) -> Tensor:
    """uint8 [3, H, W] of an RGB picture."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(view, dtype=np.uint8).transpose(2, 0, 1)))


def tile_grid(width: int, height: int, most_tiles: int = MOST_TILES, tile_side: int = TILE_SIDE) -> tuple[int, int]:
    """(columns, rows) of the tiles of a picture: of all grids of 2 to most tiles the one nearest its aspect ratio.

    Candidates come in the order of their tile count; on a tie the later one wins where the picture has more than
    half of its pixels.
    """
    aspect = width / height
    candidates = sorted(
        (
            (columns, rows)
            for columns in range(1, most_tiles + 1)
            for rows in range(1, most_tiles + 1)
            if 2 <= columns * rows <= most_tiles
        ),
        key=lambda grid: grid[0] * grid[1],
    )
    best, least = (1, 1), math.inf
    for columns, rows in candidates:
        difference = abs(aspect - columns / rows)
        roomy = width * height > 0.5 * tile_side * tile_side * columns * rows
        if difference < least or (difference == least and roomy):
            best, least = (columns, rows), difference
    return best


def content_box(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a picture that is scaled into the middle of a square view, keeping its shape."""
    longer = max(width, height)
    # in this order of operations, which decides how halves of a pixel are rounded
    fitted_width = side if width == longer else round(width / longer * side)
    fitted_height = side if height == longer else round(height / longer * side)
    return round((side - fitted_width) * 0.5), round((side - fitted_height) * 0.5), fitted_width, fitted_height


def _global_view(picture: Image.Image, mode: Mode) -> tuple[Image.Image, tuple[int, int, int, int]]:
    side = mode.side
    if side <= TILE_SIDE:
        return picture.resize((side, side), Image.Resampling.BICUBIC), (0, 0, side, side)
    left, top, width, height = content_box(*picture.size, side)
    if width < 1 or height < 1:
        raise DocumentError(
            Reason.TOO_THIN,
            f"a picture of {picture.width} x {picture.height} pixels vanishes in a view of {side} x {side}",
            "modes tiny and small stretch it to a square",
        )
    view = Image.new("RGB", (side, side), _GREY)
    view.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return view, (left, top, width, height)


def _tiles(picture: Image.Image, grid: tuple[int, int], side: int) -> Tensor:
    columns, rows = grid
    stitched = picture.resize((side * columns, side * rows), Image.Resampling.BICUBIC)
    boxes = (
        (side * column, side * row, side * (column + 1), side * (row + 1))
        for row in range(rows)
        for column in range(columns)
    )
    return torch.stack([levels(stitched.crop(box)) for box in boxes])
