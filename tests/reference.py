"""The recipe by which shared/data/deepseek-ocr/reference rebuilds weights and pictures (see its README)."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SEED = 20251122


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Reference weight of a published name: drawn by the name, scaled by its role."""
    values = generator(name).standard_normal(shape, dtype=np.float32)
    last = name.split(".")[-1]
    if name.endswith(("image_newline", "view_seperator")):
        return values * np.float32(0.5)
    if last in ("rel_pos_h", "rel_pos_w"):
        return values * np.float32(0.1)
    if last in ("pos_embed", "class_embedding") or "position_embedding" in name or "embed_tokens" in name:
        return values * np.float32(0.5)
    if last == "bias":
        return values * np.float32(0.1)
    if len(shape) == 1:
        return np.float32(1) + values * np.float32(0.1)
    if name.endswith("mlp.gate.weight"):
        return values * np.float32(2.0 / math.sqrt(shape[1]))
    return values * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))


def digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """SHA-256 over names and bytes, sorted by name: tells whether numpy still draws the same numbers."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(np.ascontiguousarray(weights[name]).tobytes())
    return total.hexdigest()


def _blocks_and_noise(source: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    blocks = source.integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    coarse = blocks.repeat(32, 0).repeat(32, 1)[:height, :width]
    noise = source.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ((coarse.astype(np.uint16) + noise) // 2).astype(np.uint8)


def view(name: str, side: int) -> NDArray[np.float32]:
    """Reference input view, float32 [3, side, side] in [-1, 1]."""
    pixels = _blocks_and_noise(generator("input." + name), side, side).astype(np.float32)
    scaled = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(scaled).transpose(2, 0, 1)


def synthetic_picture(name: str) -> Image.Image:
    """The picture called ``synthetic_<width>x<height>``."""
    width, height = map(int, name.removeprefix("synthetic_").split("x"))
    return Image.fromarray(_blocks_and_noise(generator("prep." + name), width, height))
