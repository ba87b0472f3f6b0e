"""DeepSeek-OCR: SAM and CLIP encoders in front of a mixture-of-experts decoder.

transformers' `UnlimitedOcrForConditionalGeneration` is the same architecture and has the same names of tensors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    PreTrainedModel,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
    UnlimitedOcrTextConfig,
)

from rtprune.errors import ModelError
from rtprune.models import preparation
from rtprune.models.answers import parse_grounded
from rtprune.models.family import TransformersOcr
from rtprune.models.protocol import Answer, Prompt, Views, normalised
from rtprune.models.published import DEEPSEEK_OCR
from rtprune.models.sam_attention import without_bias
from rtprune.pruning import Cues, TokenLayout

_IMAGE_TOKEN_ID = 128815
_ATTENTION_BYTES = 2 * 2**30
_ACTIVATIONS = 20  # of SAM's width, that are held for a patch at a time
#: Settings other than sizes that a `language_config` may have, each with the only value this architecture allows.
_FIXED = {
    "use_mla": False,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "kv_lora_rank": None,
    "q_lora_rank": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "moe_layer_freq": 1,
    "sliding_window": None,
}


class DeepSeekOcr(TransformersOcr):
    """A DeepSeek-OCR model in memory."""

    family = DEEPSEEK_OCR
    network_class = UnlimitedOcrForConditionalGeneration

    @classmethod
    def _configuration(cls, config: Mapping[str, Any]) -> UnlimitedOcrConfig:
        """``language_config`` has the decoder's sizes. ``vision_config`` has the encoders' sizes as ``sam_config`` and
        ``encoder_config`` (fields of `UnlimitedOcrSamVisionConfig` and `UnlimitedOcrVisionEncoderConfig`). The
        published file has neither and means the full sizes, which are the defaults.
        """
        language = config.get("language_config")
        if not isinstance(language, Mapping) or "num_hidden_layers" not in language:
            raise ModelError(
                "config.json has no language_config with num_hidden_layers", "this is no DeepSeek-OCR folder"
            )
        for key, value in _FIXED.items():
            asked = language.get(key, config.get(key, value))
            if asked != value:
                raise ModelError(
                    f"config.json asks for {key} = {asked!r} where DeepSeek-OCR has {value!r}",
                    "this checkpoint is of another architecture",
                )
        sizes = {field.name for field in dataclasses.fields(UnlimitedOcrTextConfig)} | {
            "first_k_dense_replace",
            "rope_theta",
            "rope_scaling",
        }
        text = {key: value for key, value in language.items() if key in sizes - _FIXED.keys()}
        vision = config.get("vision_config") or {}
        found = UnlimitedOcrConfig(
            # the class's own default, a sliding window, diverges from this model after 128 tokens
            text_config=text | {"layer_types": ["full_attention"] * language["num_hidden_layers"]},
            vision_config={key: dict(vision[key]) for key in ("sam_config", "encoder_config") if key in vision},
            image_token_id=config.get("image_token_id", _IMAGE_TOKEN_ID),
            tie_word_embeddings=False,
        )
        if found.vision_config.sam_config.patch_size * 4 != preparation.PIXELS_PER_TOKEN:
            raise ModelError(f"config.json: sam_config.patch_size must be {preparation.PIXELS_PER_TOKEN // 4}")
        return found

    def prepare(self, picture: Image, mode: str) -> Views:
        self.require("mode", mode, self.modes)
        return preparation.prepare(picture, mode)

    def __init__(self, network: PreTrainedModel, tokenizer: Tokenizer, **described: Any) -> None:
        super().__init__(network, tokenizer, **described)
        if self.device.type == "cuda":  # a CPU is as fast with the bias written out
            without_bias(network)

    @torch.inference_mode()
    def encode(self, views: Sequence[Views]) -> list[Tensor]:
        features: list[Tensor | None] = [None] * len(views)
        for group in self._batches(views):
            for index, found in zip(group, self._encode_alike([views[index] for index in group]), strict=True):
                features[index] = found
        return [found for found in features if found is not None]

    @torch.inference_mode()
    def attention_cues(self, views: Views) -> Cues:
        """Attention of CLIP's class token in its last layer, and that layer's keys, mean over the heads."""
        attention = self.network.model.vision_tower.vision_encoder.encoder.layers[-1].self_attn
        seen: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": []}
        hooks = [
            getattr(attention, name).register_forward_hook(lambda _, __, output, into=into: into.append(output))
            for name, into in seen.items()
        ]
        try:
            self.encode([views])
        finally:
            for hook in hooks:
                hook.remove()
        found = [
            _class_attention(queries.float(), keys.float(), attention.num_heads)
            for queries, keys in zip(seen["q_proj"], seen["k_proj"], strict=True)
        ]
        (weights, keys), *tiles = found  # the encoder sees the global view first
        weights, keys = weights.flatten(), keys.flatten(0, 1)
        for tile_weights, tile_keys in tiles:  # at most one batch of them
            weights = torch.cat([_stitched(tile_weights[..., None], views.grid).flatten(), weights])
            keys = torch.cat([_stitched(tile_keys, views.grid), keys])
        return Cues(attention=weights, keys=keys)

    def prompt(self, task: str) -> Prompt:
        prompt = super().prompt(task)
        begin = torch.tensor([self.network.config.text_config.bos_token_id])
        return Prompt(torch.cat([begin, prompt.before]), prompt.after)

    def parse(self, answer: str) -> Answer:
        return parse_grounded(answer)

    @classmethod
    def images_of(cls, network: Any, inputs: Mapping[str, Any]) -> list[tuple[TokenLayout, Tensor]]:
        views, tiles = inputs["pixel_values"], inputs.get("pixel_values_local")
        counts = inputs.get("num_local_patches")
        tile_grid = 0 if tiles is None else tiles[0].shape[-1] // preparation.PIXELS_PER_TOKEN
        found = []
        for index, view in enumerate(views):
            cut = counts is not None and int(counts[index]) > 0
            columns, rows = map(int, inputs["patches_grid"][index]) if cut else (1, 1)
            side = view.shape[-1] // preparation.PIXELS_PER_TOKEN
            found.append((TokenLayout.deepseek_ocr(side, (columns, rows) if cut else None, max(1, tile_grid)), view))
        return found

    def _encode_alike(self, views: Sequence[Views]) -> list[Tensor]:
        """Visual tokens of pictures whose global views are of one size."""
        features: list[Tensor] = self.network.get_image_features(**self._image_inputs(views)).pooler_output
        return features

    def _image_inputs(self, views: Sequence[Views]) -> dict[str, Any]:
        """Arguments of the network's ``get_image_features``."""
        views = [view.to(self.device) for view in views]
        tiles = [view.tile_pixels for view in views if view.tile_pixels is not None]
        return {
            "pixel_values": normalised(torch.stack([view.pixels for view in views])).to(self.dtype),
            "pixel_values_local": normalised(torch.cat(tiles)).to(self.dtype) if tiles else None,
            "num_local_patches": [view.tile_count for view in views],
            "patches_grid": [view.grid for view in views],
        }

    def _batches(self, views: Sequence[Views]) -> list[list[int]]:
        """Indices of views that go through the encoder together: of one size, and as many as memory holds.

        SAM needs most of it. With its bias written out that is a float per head and pair of 16-pixel patches, else
        some activations per patch.
        """
        sam = self.network.config.vision_config.sam_config
        written_out = self.device.type != "cuda"
        batches: list[list[int]] = []
        latest: dict[int, tuple[list[int], int]] = {}
        for index, view in enumerate(views):
            side, tile_count = view.pixels.shape[-1], view.tile_count
            power = 4 if written_out else 2
            patches = (side // 16) ** power + tile_count * (preparation.TILE_SIDE // 16) ** power
            floats = sam.num_attention_heads if written_out else _ACTIVATIONS * sam.hidden_size
            cost = patches * floats * self.dtype.itemsize
            batch, spent = latest.get(side, ([], 0))
            if not batch or spent + cost > _ATTENTION_BYTES:
                batch, spent = [], 0
                batches.append(batch)
            batch.append(index)
            latest[side] = batch, spent + cost
        return batches


def _class_attention(queries: Tensor, keys: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention [B, P] of the first of ``queries`` [B, 1 + P, E] to the others, and mean ``keys`` [B, P, E / h]."""
    by_head = (*keys.shape[:2], heads, -1)
    first, keys = queries.reshape(by_head)[:, 0], keys.reshape(by_head)
    scores = torch.einsum("bhe,bphe->bhp", first, keys) / keys.shape[-1] ** 0.5
    return scores.softmax(dim=-1)[:, :, 1:].mean(dim=1), keys[:, 1:].mean(dim=2)


def _stitched(tiles: Tensor, grid: tuple[int, int]) -> Tensor:
    """[T * P, E], row by row of the whole grid, of ``tiles`` [T, P, E] that are square and lie (columns, rows)."""
    columns, rows = grid
    side = math.isqrt(tiles.shape[1])
    return tiles.reshape(rows, columns, side, side, -1).transpose(1, 2).flatten(0, 3)
