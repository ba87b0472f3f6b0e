"""How many operations a page takes and how many bytes a decode step reads, from a configuration alone.

A multiplication with its addition counts as two FLOPs; 2 x weights for each token that passes them, of experts those
that a token is routed to (Kaplan et al., arXiv 2001.08361, section 2.1), and 4 x width for each pair of a token and
one it attends to (scores, then values). Norms, activations and rotary positions, under a hundredth, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch

from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.preparation import PIXELS_PER_TOKEN
from rtprune.models.protocol import OcrModel, Views


@dataclass(frozen=True)
class PageFlops:
    """FLOPs of one page."""

    encode: float
    prefill: float
    decode: float


class Arithmetic:
    """Counts for DeepSeek-OCR's architecture.

    Args:
        config: transformers' configuration of the model.
        dtype: of weights, keys and values.
    """

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self._text = config.text_config
        self._sam = config.vision_config.sam_config
        self._clip = config.vision_config.encoder_config
        self._itemsize = dtype.itemsize
        text = self._text
        self._width: int = text.num_attention_heads * text.head_dim
        self._sparse: int = text.mlp_layer_types.count("sparse")
        self._head: int = text.hidden_size * text.vocab_size
        self._expert: int = 3 * text.hidden_size * text.moe_intermediate_size
        key_values: int = 2 * text.num_key_value_heads * text.head_dim
        attention = text.hidden_size * (2 * self._width + key_values)
        router_and_shared = text.hidden_size * text.n_routed_experts + text.n_shared_experts * self._expert
        #: Weights of the layers that every token passes.
        self._common: int = (
            text.num_hidden_layers * attention
            + (text.num_hidden_layers - self._sparse) * 3 * text.hidden_size * text.intermediate_size
            + self._sparse * router_and_shared
        )
        self._cache_bytes: int = text.num_hidden_layers * key_values * self._itemsize

    def page(self, views: Views, prompt_tokens: int, output_tokens: int) -> PageFlops:
        """FLOPs of a page read token by token; the first token of an answer comes with the prefill."""
        attended = sum(range(prompt_tokens + 1, prompt_tokens + output_tokens))
        decode = max(0, output_tokens - 1) * (self._per_token + 2 * self._head) + attended * self._per_pair
        return PageFlops(self.encode(views), self.prefill(prompt_tokens), decode)

    def prefill(self, tokens: int) -> float:
        """FLOPs of a prompt of so many tokens: all pairs of them, as attention with a mask computes what it hides."""
        return tokens * self._per_token + tokens**2 * self._per_pair + 2 * self._head

    def encode(self, views: Views) -> float:
        """FLOPs of both encoders and the projector, over the global view and the tiles."""
        sides = [views.pixels.shape[-1]]
        if views.tile_pixels is not None:
            sides += [views.tile_pixels.shape[-1]] * views.tile_count
        return float(sum(self._sam_flops(side) + self._clip_flops(side) for side in sides))

    def step_bytes(self, lengths: Sequence[float]) -> float:
        """Bytes that a decode step over pages of these lengths in tokens cannot but read.

        They are the weights that some page's token passes, once, and every page's keys and values. How many experts
        are touched is the expectation where each token's are drawn evenly; a router that prefers some touches fewer.
        """
        weights = self._common + self._head + self._sparse * self.experts(len(lengths)) * self._expert
        return weights * self._itemsize + sum(lengths) * self._cache_bytes

    def experts(self, tokens: int) -> float:
        """How many different experts of a layer so many tokens are expected to touch."""
        count, each = int(self._text.n_routed_experts), int(self._text.num_experts_per_tok)
        return float(count * (1 - (1 - each / count) ** tokens))

    @property
    def _per_token(self) -> int:
        return 2 * (self._common + self._sparse * int(self._text.num_experts_per_tok) * self._expert)

    @property
    def _per_pair(self) -> int:
        return 4 * int(self._text.num_hidden_layers) * self._width

    def _sam_flops(self, side: int) -> int:
        sam = self._sam
        width, grid = sam.hidden_size, side // sam.patch_size
        patches = grid**2
        embedding = patches * sam.num_channels * sam.patch_size**2 * width
        full = sum(index < sam.num_hidden_layers for index in sam.global_attn_indexes)
        windows = ceil(grid / sam.window_size)  # along a side; the last ones are padded
        attention = full * _sam_attention(grid, 1, width, sam.use_rel_pos)
        attention += (sam.num_hidden_layers - full) * _sam_attention(
            sam.window_size, windows**2, width, sam.use_rel_pos
        )
        mlp = sam.num_hidden_layers * patches * 2 * width * sam.mlp_dim
        out, (middle, last) = sam.output_channels, sam.downsample_channels
        neck = patches * (width * out + 9 * out**2) + 9 * (patches // 4 * out * middle + patches // 16 * middle * last)
        return 2 * int(embedding + attention + mlp + neck)

    def _clip_flops(self, side: int) -> int:
        clip = self._clip
        width, tokens = clip.hidden_size, (side // PIXELS_PER_TOKEN) ** 2
        states = tokens + 1  # a class token beside them
        layer = states * (4 * width**2 + 2 * width * clip.intermediate_size) + 2 * states**2 * width
        projector = tokens * (width + self._sam.downsample_channels[-1]) * self._text.hidden_size
        return 2 * int(clip.num_hidden_layers * layer + projector)


def arithmetic_of(model: OcrModel) -> Arithmetic | None:
    """The counts for ``model``; ``None`` for a family whose architecture they do not describe."""
    if not isinstance(model, DeepSeekOcr) or model.answer_window is not None:
        return None
    return Arithmetic(model.network.config, model.dtype)


def _sam_attention(side: int, windows: int, width: int, relative: bool) -> int:
    """Multiplications of one layer's attention in square windows, and of the four projections around it."""
    states = side**2
    positions = 2 * states * side * width if relative else 0  # rows and columns, apart
    return windows * (4 * states * width**2 + 2 * states**2 * width + positions)
