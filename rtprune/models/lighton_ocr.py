"""LightOnOCR: a Pixtral encoder that merges patches by four, in front of a Qwen3 decoder.

Published files call it "mistral3", which it is not; transformers' `LightOnOcrForConditionalGeneration` is the same
architecture and has the same names of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration

from rtprune.errors import DocumentError, ModelError, Reason
from rtprune.models import native
from rtprune.models.family import TransformersOcr
from rtprune.models.protocol import Answer, Views
from rtprune.models.published import LIGHTON_OCR
from rtprune.pruning import TokenLayout

LONGEST_SIDE = 1540
_IMAGE_TOKEN_ID = 151655
_PARTS = {"text_config": "qwen3", "vision_config": "pixtral"}
#: Settings other than sizes that config.json may have, each with the only value this architecture allows.
_FIXED = {
    "spatial_merge_size": native.MERGE,
    "vision_feature_layer": -1,
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": False,
}


class LightOnOcr(TransformersOcr):
    """A LightOnOCR model in memory."""

    family = LIGHTON_OCR
    network_class = LightOnOcrForConditionalGeneration

    @classmethod
    def _configuration(cls, config: Mapping[str, Any]) -> LightOnOcrConfig:
        for name, kind in _PARTS.items():
            part = config.get(name)
            if not isinstance(part, Mapping) or part.get("model_type") != kind:
                raise ModelError(f'config.json has no {name} of model_type "{kind}"', "this is no LightOnOCR folder")
        for key, value in _FIXED.items():
            asked = config.get(key, value)
            if asked != value:
                raise ModelError(
                    f"config.json asks for {key} = {asked!r} where LightOnOCR has {value!r}",
                    "this checkpoint is of another architecture",
                )
        text = dict(config["text_config"])
        found = LightOnOcrConfig(
            text_config=text | {"eos_token_id": config.get("eos_token_id", text.get("eos_token_id"))},
            vision_config=dict(config["vision_config"]),
            image_token_id=config.get("image_token_id", config.get("image_token_index", _IMAGE_TOKEN_ID)),
            tie_word_embeddings=config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)),
        )
        if found.vision_config.patch_size != native.PATCH:
            raise ModelError(f"config.json: vision_config.patch_size must be {native.PATCH}")
        return found

    def prepare(self, picture: Image, mode: str) -> Views:
        self.require("mode", mode, self.modes)
        return native.prepare(picture, view_tokens)

    @torch.inference_mode()
    def encode(self, views: Sequence[Views]) -> list[Tensor]:
        # one by one: the encoder joins pictures to one sequence under a dense mask, at the cost of its length squared
        return [self._encode_one(view.global_view) for view in views]

    def parse(self, answer: str) -> Answer:
        return Answer(answer.strip(), ())

    @classmethod
    def images_of(cls, network: Any, inputs: Mapping[str, Any]) -> list[tuple[TokenLayout, Tensor]]:
        unit = native.PIXELS_PER_TOKEN
        found = []
        for pixels, (height, width) in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True):
            # the encoder leaves out what is no whole token at the right and at the bottom
            rows, columns = int(height) // unit, int(width) // unit
            view = native.view_of(pixels[:, : rows * unit, : columns * unit])
            found.append((TokenLayout.plain(columns, rows, unit), view))
        return found

    def _encode_one(self, view: Tensor) -> Tensor:
        output = self.network.get_image_features(
            pixel_values=native.clip_pixels(view)[None].to(self.device, self.dtype), image_sizes=[view.shape[1:]]
        )
        features: Tensor = output.pooler_output[0]
        return features


def view_tokens(width: int, height: int) -> tuple[int, int]:
    """(columns, rows) of a picture: shrunk to `LONGEST_SIDE` but never enlarged, then stretched to whole tokens.

    Raises:
        DocumentError: the picture is so thin that nothing of it is left in the view.
    """
    shrink = max(width / LONGEST_SIDE, height / LONGEST_SIDE, 1.0)
    fitted_width, fitted_height = math.floor(width / shrink), math.floor(height / shrink)
    if fitted_width < 1 or fitted_height < 1:
        raise DocumentError(
            Reason.TOO_THIN, f"a picture of {width} x {height} pixels vanishes when its longer side is {LONGEST_SIDE}"
        )
    return math.ceil(fitted_width / native.PIXELS_PER_TOKEN), math.ceil(fitted_height / native.PIXELS_PER_TOKEN)
