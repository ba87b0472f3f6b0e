"""A page with its visual tokens on it: which were pruned, and how large the others are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rtprune.errors import UsageError
from rtprune.pruning import PruneFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from rtprune.models import Views
    from rtprune.pruning import Pruned

PANEL_SIDE = 1024  # pixels of a panel's longer side
CAPTION_HEIGHT, MARGIN = 56, 12
INK = (20, 20, 30)
PRUNED = (58, 66, 92, 190)  # a shade over what was pruned, RGBA
KEPT = (255, 120, 0)  # a tint over what stays, stronger where the norm is larger
STRONGEST_TINT = 0.45
GRID = (205, 208, 216, 110)  # faint: lines cross the text where tokens are small


@dataclass(frozen=True)
class _Panel:
    """One grid of tokens and the picture it was made of; ``positions`` [rows, columns] in the visual sequence."""

    picture: Image.Image
    positions: NDArray[np.int64]


def draw_overlay(views: Views, features: Tensor, pruned: Pruned) -> Image.Image:
    """The views of a page side by side, pruned tokens shaded and kept ones tinted by their norm, facts below.

    Args:
        views: the page as the encoder took it.
        features: [L, D], its visual tokens before pruning.
        pruned: what pruning left of them.

    Raises:
        UsageError: the model's tokens stand for no place on the page.
    """
    if not views.layout.spatial:
        raise UsageError(
            "this model's visual tokens stand for no place on the page",
            "leave --overlay out, or take a model whose tokens do: see rtprune models",
        )
    norms = features.float().norm(dim=-1).cpu().numpy()
    free = views.layout.free.numpy()
    lowest, highest = norms[free].min(), norms[free].max()
    strength = (norms - lowest) / max(float(highest - lowest), 1e-12)
    kept = np.zeros(views.layout.length, bool)
    kept[pruned.positions.cpu().numpy()] = True
    drawn = [_draw_panel(panel, kept, strength) for panel in _panels(views)]
    caption = _caption(pruned.facts)
    font = ImageFont.load_default(size=18)
    lines = [font.getlength(line) for line in caption.splitlines()]
    panels = sum(picture.width for picture in drawn) + MARGIN * (len(drawn) - 1)
    width = max(panels, *map(math.ceil, lines)) + 2 * MARGIN
    height = max(picture.height for picture in drawn)
    sheet = Image.new("RGB", (width, height + CAPTION_HEIGHT + 2 * MARGIN), "white")
    left = MARGIN
    for picture in drawn:
        sheet.paste(picture, (left, MARGIN))
        left += picture.width + MARGIN
    ImageDraw.Draw(sheet).multiline_text((MARGIN, height + 2 * MARGIN), caption, INK, font=font)
    return sheet


def _panels(views: Views) -> Iterator[_Panel]:
    """Global view first, as a reader expects; in the sequence the tiles come first."""
    free = np.flatnonzero(views.layout.free.numpy())
    columns, rows = views.layout.grid
    tile_tokens, view_tokens = np.split(free, [len(free) - columns * rows])
    yield _Panel(_picture(views.global_view), view_tokens.reshape(rows, columns))
    tiles = views.tiles
    if tiles is not None:
        columns, rows = views.grid
        tile = Image.new("RGB", (columns * tiles.shape[-1], rows * tiles.shape[-1]))
        for index, pixels in enumerate(tiles):
            row, column = divmod(index, columns)
            tile.paste(_picture(pixels), (column * pixels.shape[-1], row * pixels.shape[-1]))
        yield _Panel(tile, tile_tokens.reshape(-1, tile.width // views.layout.patch))


def _picture(pixels: Tensor) -> Image.Image:
    levels = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _draw_panel(panel: _Panel, kept: NDArray[np.bool_], strength: NDArray[np.float32]) -> Image.Image:
    rows, columns = panel.positions.shape
    scale = PANEL_SIDE / max(panel.picture.size)
    picture = panel.picture.resize((round(panel.picture.width * scale), round(panel.picture.height * scale)))
    shade = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(shade)
    x = np.linspace(0, picture.width, columns + 1).round().astype(int)
    y = np.linspace(0, picture.height, rows + 1).round().astype(int)
    for row in range(rows):
        for column in range(columns):
            token = panel.positions[row, column]
            tint = (*KEPT, round(255 * STRONGEST_TINT * float(strength[token])))
            box = (x[column], y[row], x[column + 1] - 1, y[row + 1] - 1)
            pen.rectangle(box, fill=tint if kept[token] else PRUNED, outline=GRID)
    return Image.alpha_composite(picture.convert("RGBA"), shade).convert("RGB")


def _caption(facts: PruneFacts) -> str:
    first = f"{facts.tokens_before} -> {facts.tokens_after} visual tokens; {facts.free_before - facts.free_after} of "
    first += f"{facts.free_before} free ones pruned (shaded), the others tinted by their norm"
    if facts.similarity is None or facts.density is None:
        return f"{first}\nratio {facts.ratio:.3f}, fixed"
    return f"{first}\nsimilarity {facts.similarity:.3f}, density {facts.density:.3f}: ratio {facts.ratio:.3f}"
