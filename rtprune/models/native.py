"""Preparation for models that keep a picture's shape: one view of whole tokens, 28 pixels square, in CLIP's colours."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from rtprune.errors import DocumentError, Reason
from rtprune.models.preparation import levels
from rtprune.models.protocol import Views
from rtprune.pruning import TokenLayout

MODE = "native"
PATCH = 14
#: Patches that one token stands for, along each side.
MERGE = 2
PIXELS_PER_TOKEN = PATCH * MERGE


def prepare(picture: Image.Image, tokens: Callable[[int, int], tuple[int, int]]) -> Views:
    """The view of a picture.

    Args:
        tokens: width and height of the upright picture in pixels -> columns and rows of the view in tokens.

    Raises:
        DocumentError: the picture has no pixels, or ``tokens`` refuses it.
    """
    if picture.width < 1 or picture.height < 1:
        raise DocumentError(Reason.EMPTY_PICTURE, f"the picture has no pixels: {picture.width} x {picture.height}")
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    columns, rows = tokens(*upright.size)
    size = columns * PIXELS_PER_TOKEN, rows * PIXELS_PER_TOKEN
    pixels = levels(upright.resize(size, Image.Resampling.BICUBIC))
    layout = TokenLayout.plain(columns, rows, PIXELS_PER_TOKEN)
    return Views(MODE, pixels, None, (1, 1), layout, (0, 0, *size), upright.size)


def clip_pixels(view: Tensor) -> Tensor:
    """A view [3, H, W] in [-1, 1] with CLIP's mean and standard deviation of each colour."""
    mean, deviation = _clip(view)
    return (view * 0.5 + 0.5 - mean) / deviation


def view_of(clip_pixels: Tensor) -> Tensor:
    """The view [3, H, W] in [-1, 1] that has these ``clip_pixels``."""
    mean, deviation = _clip(clip_pixels)
    return (clip_pixels * deviation + mean - 0.5) / 0.5


def _clip(like: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = like.new_tensor(OPENAI_CLIP_MEAN), like.new_tensor(OPENAI_CLIP_STD)
    return mean[:, None, None], deviation[:, None, None]
