"""DeepSeek-OCR-2: DeepSeek-OCR's decoder and preparation behind another encoder.

SAM's map goes through a small language model, with learned queries behind it; its outputs at the queries are the visual
sequence. A query sees the whole view and the queries before it, so its token has no place on the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor
from transformers import DeepseekOcr2Config, DeepseekOcr2ForConditionalGeneration, DeepseekOcr2TextConfig

from rtprune.errors import ModelError
from rtprune.models import preparation
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import TransformersOcr
from rtprune.models.protocol import Views
from rtprune.models.published import DEEPSEEK_OCR2
from rtprune.pruning import Cues, TokenLayout

# the views that the encoder has queries for
_VIEW_SIDE = 1024
_TILE_SIDE = 768
MODES = {
    "base": preparation.Mode(_VIEW_SIDE),
    "gundam": preparation.Mode(_VIEW_SIDE, most_tiles=6, tile_side=_TILE_SIDE),
}

_IMAGE_TOKEN_ID = 128815
_ATTENTION_BYTES = 2 * 2**30
#: Sizes of the language model in the encoder, of which the published file says only the width.
_ENCODER = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


class DeepSeekOcr2(DeepSeekOcr):
    """A DeepSeek-OCR-2 model in memory."""

    family = DEEPSEEK_OCR2
    network_class = DeepseekOcr2ForConditionalGeneration

    @classmethod
    def _configuration(cls, config: Mapping[str, Any]) -> DeepseekOcr2Config:
        """``language_config`` (``text_config`` in transformers' own layout) has the decoder's sizes, as DeepSeek-OCR's.

        ``vision_config`` has the encoders' sizes as ``sam_config`` and ``encoder_config``. The published file has
        neither and means the full sizes.
        """
        language = config.get("language_config", config.get("text_config"))
        decoder = super()._configuration({**config, "language_config": language, "vision_config": None}).text_config
        vision = dict(config.get("vision_config") or {})
        sizes = [field.name for field in dataclasses.fields(DeepseekOcr2TextConfig)]
        found = DeepseekOcr2Config(
            text_config={name: getattr(decoder, name) for name in sizes},
            vision_config={
                "sam_config": dict(vision.get("sam_config", {})),
                "encoder_config": _ENCODER | vision.get("encoder_config", {}),
            },
            image_token_id=config.get("image_token_id", _IMAGE_TOKEN_ID),
            tie_word_embeddings=False,
        )
        sam = found.vision_config.sam_config
        if sam.patch_size * 4 != preparation.PIXELS_PER_TOKEN:
            raise ModelError(f"config.json: sam_config.patch_size must be {preparation.PIXELS_PER_TOKEN // 4}")
        if sam.downsample_channels[-1] != found.vision_config.encoder_config.hidden_size:
            raise ModelError("config.json: sam_config.downsample_channels must end in encoder_config.hidden_size")
        return found

    def prepare(self, picture: Image, mode: str) -> Views:
        self.require("mode", mode, self.modes)
        return preparation.prepare(picture, mode, MODES, TokenLayout.deepseek_ocr2)

    def attention_cues(self, views: Views) -> Cues:
        # unlike DeepSeek-OCR's CLIP, this encoder has no class token whose attention could be taken
        return TransformersOcr.attention_cues(self, views)

    @classmethod
    def images_of(cls, network: Any, inputs: Mapping[str, Any]) -> list[tuple[TokenLayout, Tensor]]:
        views, tiles = inputs["pixel_values"], inputs.get("pixel_values_local")
        counts = [0] * len(views) if tiles is None else map(int, inputs["num_local_patches"])
        side = views[0].shape[-1] // preparation.PIXELS_PER_TOKEN
        tile_side = _TILE_SIDE // preparation.PIXELS_PER_TOKEN
        # the sequence depends on the number of tiles, not on their grid
        return [
            (TokenLayout.deepseek_ocr2(side, (count, 1) if count else None, tile_side), view)
            for view, count in zip(views, counts, strict=True)
        ]

    def _image_inputs(self, views: Sequence[Views]) -> dict[str, Any]:
        inputs = super()._image_inputs(views)
        del inputs["patches_grid"]
        return inputs

    def _batches(self, views: Sequence[Views]) -> list[list[int]]:
        """As DeepSeek-OCR's, where all global views are of one size."""
        heads = self.network.config.vision_config.sam_config.num_attention_heads
        batches: list[list[int]] = []
        room = 0
        for index, view in enumerate(views):
            tile_count = view.tile_count
            cost = ((_VIEW_SIDE // 16) ** 4 + tile_count * (_TILE_SIDE // 16) ** 4) * heads * self.dtype.itemsize
            if not batches or cost > room:
                batches.append([])
                room = _ATTENTION_BYTES
            batches[-1].append(index)
            room -= cost
        return batches
