"""One small random model and pages with something on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from rtprune.models import load_model
from rtprune.models.deepseek_ocr import DeepSeekOcr


@pytest.fixture(scope="session")
def model(random_checkpoint: Path) -> DeepSeekOcr:
    """A small random model on the CPU in float32. A test changes it by ``monkeypatch`` only."""
    loaded = load_model(str(random_checkpoint), device="cpu")
    assert isinstance(loaded, DeepSeekOcr)
    return loaded


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    """``draw(seed, size)``: a page of random coloured blocks."""

    def page(seed: int, size: tuple[int, int] = (320, 400)) -> Image.Image:
        chance = random.Random(seed)
        picture = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(picture)
        for _ in range(15 + 10 * seed):
            x, y = chance.randrange(size[0]), chance.randrange(size[1])
            colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
            pen.rectangle((x, y, x + chance.randrange(60), y + chance.randrange(20)), fill=colour)
        return picture

    return page
