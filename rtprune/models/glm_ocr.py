"""GLM-OCR: an encoder that merges patches by four, in front of a decoder whose positions have three axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import GlmOcrConfig, GlmOcrForConditionalGeneration

from rtprune.errors import DocumentError, ModelError, Reason
from rtprune.models import native
from rtprune.models.family import TransformersOcr
from rtprune.models.protocol import Answer, Views, VisualPositions
from rtprune.models.published import GLM_OCR
from rtprune.pruning import TokenLayout

_FRAMES = 2
#: Pixels of a view. The published limits count the pixels of two frames, as of a film, and a picture is one frame.
LEAST_PIXELS, MOST_PIXELS = 12_544 // _FRAMES, 9_633_792 // _FRAMES
MOST_ASPECT = 200
_IMAGE_TOKEN_ID = 59280
_ENCODER_BYTES = 2 * 2**30
_PARTS = {"text_config": "glm_ocr_text", "vision_config": "glm_ocr_vision"}
#: Settings that ``vision_config`` may have, each with the only value that pictures are prepared for.
_FIXED = {
    "patch_size": native.PATCH,
    "spatial_merge_size": native.MERGE,
    "temporal_patch_size": _FRAMES,
    "in_channels": 3,
}


class GlmOcr(TransformersOcr):
    """A GLM-OCR model in memory."""

    family = GLM_OCR
    network_class = GlmOcrForConditionalGeneration

    @classmethod
    def _configuration(cls, config: Mapping[str, Any]) -> GlmOcrConfig:
        for name, kind in _PARTS.items():
            part = config.get(name)
            if not isinstance(part, Mapping) or part.get("model_type") != kind:
                raise ModelError(f'config.json has no {name} of model_type "{kind}"', "this is no GLM-OCR folder")
        for key, value in _FIXED.items():
            asked = config["vision_config"].get(key, value)
            if asked != value:
                raise ModelError(
                    f"config.json asks for {key} = {asked!r} where GLM-OCR has {value!r}",
                    "this checkpoint is of another architecture",
                )
        return GlmOcrConfig(
            text_config=dict(config["text_config"]),
            vision_config=dict(config["vision_config"]),
            image_token_id=config.get("image_token_id", _IMAGE_TOKEN_ID),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
        )

    def prepare(self, picture: Image, mode: str) -> Views:
        self.require("mode", mode, self.modes)
        return native.prepare(picture, view_tokens)

    @torch.inference_mode()
    def encode(self, views: Sequence[Views]) -> list[Tensor]:
        features: list[Tensor] = []
        for batch in self._batches(views):
            output = self.network.get_image_features(
                pixel_values=torch.cat([patches(view.global_view) for view in batch]).to(self.device, self.dtype),
                image_grid_thw=torch.tensor([_patch_grid(view.layout) for view in batch], device=self.device),
            )
            features.extend(output.pooler_output)
        return features

    def visual_positions(self, layout: TokenLayout) -> VisualPositions:
        """On the axes of time, rows and columns."""
        columns, rows = layout.grid
        row = torch.arange(rows).repeat_interleave(columns)
        column = torch.arange(columns).repeat(rows)
        return VisualPositions(torch.stack([torch.zeros_like(row), row, column]), max(columns, rows))

    def parse(self, answer: str) -> Answer:
        return Answer(answer.strip(), ())

    @classmethod
    def images_of(cls, network: Any, inputs: Mapping[str, Any]) -> list[tuple[TokenLayout, Tensor]]:
        grids = inputs["image_grid_thw"].tolist()
        found = []
        for (_, high, wide), pixels in zip(grids, inputs["pixel_values"].split([*map(math.prod, grids)]), strict=True):
            rows, columns = high // native.MERGE, wide // native.MERGE
            ordered = pixels.reshape(rows, columns, *[native.MERGE] * 2, -1, _FRAMES, *[native.PATCH] * 2)
            split = ordered[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6)
            view = native.view_of(split.reshape(-1, high * native.PATCH, wide * native.PATCH))
            found.append((TokenLayout.plain(columns, rows, native.PIXELS_PER_TOKEN), view))
        return found

    def _batches(self, views: Sequence[Views]) -> Iterator[list[Views]]:
        """Views that go through the encoder together, in their order: as many as memory holds.

        Attention stays within a picture. What grows with a batch is a few vectors per patch, the widest of them in the
        feed-forward layers.
        """
        bytes_per_patch = 4 * self.network.config.vision_config.intermediate_size * self.dtype.itemsize
        batch: list[Views] = []
        spent = 0
        for view in views:
            cost = math.prod(_patch_grid(view.layout)) * bytes_per_patch
            if batch and spent + cost > _ENCODER_BYTES:
                yield batch
                batch, spent = [], 0
            batch.append(view)
            spent += cost
        if batch:
            yield batch


def view_tokens(width: int, height: int) -> tuple[int, int]:
    """(columns, rows) of a picture: the nearest whole tokens, scaled into `LEAST_PIXELS` to `MOST_PIXELS`.

    Raises:
        DocumentError: the picture is thinner than `MOST_ASPECT` allows.
    """
    unit = native.PIXELS_PER_TOKEN
    enlarge = max(unit / height, unit / width, 1.0)
    wide, high = int(width * enlarge), int(height * enlarge)
    if max(wide, high) / min(wide, high) > MOST_ASPECT:
        raise DocumentError(
            Reason.TOO_THIN,
            f"a picture of {width} x {height} pixels has one side more than {MOST_ASPECT} times the other",
        )
    columns, rows = round(wide / unit), round(high / unit)
    pixels = columns * rows * unit**2
    if pixels > MOST_PIXELS:
        shrink = math.sqrt(wide * high / MOST_PIXELS)
        return max(1, math.floor(wide / shrink / unit)), max(1, math.floor(high / shrink / unit))
    if pixels < LEAST_PIXELS:
        enlarge = math.sqrt(LEAST_PIXELS / (wide * high))
        return math.ceil(wide * enlarge / unit), math.ceil(high * enlarge / unit)
    return columns, rows


def patches(view: Tensor) -> Tensor:
    """A view [3, H, W] in [-1, 1] as the encoder takes it: [patches, 3 * 2 * 14 * 14]. The four patches of a token are
    neighbours, and each is there as two equal frames."""
    channels, height, width = view.shape
    rows, columns = height // native.PIXELS_PER_TOKEN, width // native.PIXELS_PER_TOKEN
    split = native.clip_pixels(view).reshape(
        channels, 1, rows, native.MERGE, native.PATCH, columns, native.MERGE, native.PATCH
    )
    # rows, columns, then within a token rows, columns, then colours, frames, and pixels by rows
    ordered = split.permute(2, 5, 3, 6, 0, 1, 4, 7).expand(-1, -1, -1, -1, -1, _FRAMES, -1, -1)
    return ordered.reshape(rows * columns * native.MERGE**2, -1)


def _patch_grid(layout: TokenLayout) -> tuple[int, int, int]:
    """(frames over two, rows, columns) of a view in patches."""
    columns, rows = layout.grid
    return 1, rows * native.MERGE, columns * native.MERGE
