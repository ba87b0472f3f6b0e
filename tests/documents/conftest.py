"""Documents made on the fly."""

from __future__ import annotations

import io
from collections.abc import Callable

import pymupdf
import pytest
from PIL import Image, ImageDraw


@pytest.fixture
def make_pdf() -> Callable[..., bytes]:
    """``make_pdf("first", "second", width=..., height=...)``: a PDF with one page for each text."""

    def make(*texts: str, width: float = 300, height: float = 200, **saving: object) -> bytes:
        with pymupdf.open() as document:
            for text in texts:
                document.new_page(width=width, height=height).insert_text((20, 60), text, fontsize=24)
            return document.tobytes(**saving)

    return make


@pytest.fixture
def drawing() -> Image.Image:
    """80 x 40 pixels, white, with a black rectangle in the left upper corner."""
    picture = Image.new("RGB", (80, 40), "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 19, 9), fill="black")
    return picture


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """``encode(picture, "PNG", ...)``: the picture's bytes as Pillow saves it."""

    def save(picture: Image.Image, kind: str, **saving: object) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **saving)
        return file.getvalue()

    return save
