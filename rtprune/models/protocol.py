"""What a model family promises, and the values that pass between a picture and its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, overload

from rtprune.models.card import Family, ModelCard
from rtprune.models.checkpoint import Checkpoint

if TYPE_CHECKING:  # what only describes a model needs no torch, whose import takes seconds
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from rtprune.models.attention import Attention
    from rtprune.pruning import Cues, TokenLayout


@dataclass(frozen=True, eq=False)
class Views:
    """One picture as the vision encoder takes it.

    Attributes:
        mode: name of the view size.
        pixels: [3, H, W], the whole picture: 8-bit levels, or floats in [-1, 1].
        tile_pixels: [T, 3, S, S], row by row, likewise; ``None`` where the picture is not cut.
        grid: (columns, rows) of the tiles; (1, 1) where there are none.
        layout: what stands at each of the L positions of the visual sequence.
        content_box: (left, top, width, height) of the picture within the global view, in its pixels.
        picture_size: (width, height) of the upright picture in pixels.
    """

    mode: str
    pixels: Tensor
    tile_pixels: Tensor | None
    grid: tuple[int, int]
    layout: TokenLayout
    content_box: tuple[int, int, int, int]
    picture_size: tuple[int, int]

    @property
    def global_view(self) -> Tensor:
        """float32 [3, H, W] in [-1, 1]: the whole picture, on the device that its pixels are on."""
        return normalised(self.pixels)

    @property
    def tiles(self) -> Tensor | None:
        """float32 [T, 3, S, S] in [-1, 1], row by row, or ``None`` where the picture is not cut."""
        return None if self.tile_pixels is None else normalised(self.tile_pixels)

    @property
    def tile_count(self) -> int:
        """Number T of the tiles."""
        return 0 if self.tile_pixels is None else len(self.tile_pixels)

    def to(self, device: torch.device) -> Views:
        """The same on ``device``, in the one upload that its pixels need."""
        return replace(self, pixels=_moved(self.pixels, device), tile_pixels=_moved(self.tile_pixels, device))


def normalised(pixels: Tensor) -> Tensor:
    """``pixels`` as float32 in [-1, 1]: (x / 255 - 0.5) / 0.5 of 8-bit levels, the same numbers on any device."""
    if pixels.is_floating_point():
        return pixels
    levels = pixels.float()
    # a GPU multiplies by the reciprocal of a plain number, which rounds otherwise
    return (levels / levels.new_full((), 255.0)).sub_(0.5).div_(0.5)


@overload
def _moved(pixels: Tensor, device: torch.device) -> Tensor: ...
@overload
def _moved(pixels: None, device: torch.device) -> None: ...
def _moved(pixels: Tensor | None, device: torch.device) -> Tensor | None:
    if pixels is None or pixels.device == device:
        return pixels
    pinned = pixels.pin_memory() if device.type == "cuda" else pixels
    return pinned.to(device, non_blocking=True)


@dataclass(frozen=True)
class Region:
    """A part of the page that the model located.

    Attributes:
        label: what the model calls it: "text", "title", "table", "image", ...
        box: (left, top, right, bottom), each 0..999 of the original picture's width or height.
        text: what it reads there; empty for pictures.
    """

    label: str
    box: tuple[int, int, int, int]
    text: str


@dataclass(frozen=True)
class Answer:
    """The model's answer: the text without location marks, and the regions in reading order."""

    text: str
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Prompt:
    """Token ids, int64 [n] and [m], in front of the visual tokens and behind them."""

    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class VisualPositions:
    """Positions of a visual sequence's tokens, counted from its first.

    Attributes:
        axes: int64 [A, L], position of each token on each of the model's A rotary axes.
        extent: the position of the token that follows the sequence.
    """

    axes: Tensor
    extent: int

    @classmethod
    def sequential(cls, layout: TokenLayout) -> VisualPositions:
        """One after the other on a single axis, as in most models."""
        import torch

        return cls(torch.arange(layout.length)[None], layout.length)


class OcrModel(Protocol):
    """One OCR model on one device.

    D is the decoder's width, V its vocabulary, A the number of its position axes, L_i the length of a visual sequence.
    """

    @property
    def name(self) -> str:
        """The name it was loaded by."""

    @property
    def revision(self) -> str:
        """Fingerprint of configuration, tokenizer and weights: the same bytes give the same one anywhere."""

    @property
    def modes(self) -> tuple[str, ...]:
        """View sizes it can be used with."""

    @property
    def default_mode(self) -> str: ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of answer it can give: "text", "markdown"."""

    @property
    def default_task(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""

    @property
    def repeatable_token_ids(self) -> frozenset[int]:
        """Tokens whose repetition is no sign of a loop: the marks of table cells."""

    @property
    def answer_window(self) -> int | None:
        """How many of the answer's latest tokens a token attends to, itself included; ``None`` for all of them."""

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory that keys and values of one token take, over all layers of the decoder."""

    @property
    def hidden_size(self) -> int:
        """The decoder's width D."""

    def prepare(self, picture: Image, mode: str) -> Views:
        """A picture as the encoder takes it. Several threads may call it, as ``tokenize``, while another one decodes.

        Raises ``UsageError`` for a mode the model does not have, and ``DocumentError`` for a picture that has no pixels
        or is too thin to be shown.
        """

    def encode(self, views: Sequence[Views]) -> list[Tensor]:
        """Visual tokens [L_i, D] of each picture in the order its layout describes, on the model's device."""

    def attention_cues(self, views: Views) -> Cues:
        """How the vision encoder attends to a picture's free tokens. Raises ``UsageError`` for models that have no such
        attention."""

    def visual_positions(self, layout: TokenLayout) -> VisualPositions:
        """Positions of the tokens of a visual sequence."""

    def prompt(self, task: str) -> Prompt:
        """What stands around the visual tokens. Raises ``UsageError`` for a task the model does not have."""

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., D] of token ids [...], on the model's device."""

    def decoder(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor = 1,
        attention: Attention | None = None,
    ) -> tuple[Tensor, Any]:
        """One pass of the decoder, for prompts as for single tokens.

        Args:
            inputs_embeds: [B, n, D].
            position_ids: int64 [A, B, n]; may have gaps.
            attention_mask: [B, cached + n], 0 where a sequence is padded (on the left); or [B, 1, n, m], added to the
                scores of attention; ``None`` for causal attention over everything.
            past_key_values: what the pass before returned, or a cache of the caller's; ``None`` for the first pass.
            logits_to_keep: of how many last places logits are returned; or int64 [k], of which places.
            attention: how tokens see each other, in the place of ``attention_mask``; the cache is then the engine's.

        Returns:
            Logits [B, k, V] of the k places, and the cache for the next pass.
        """

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a page's text, as the model might answer it."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of an answer's ids, location marks included, end tokens left out."""

    def parse(self, answer: str) -> Answer:
        """The answer's text and regions. Never raises: what is malformed stays out of the regions."""


class ModelFamily(Protocol):
    """What is registered as a model family: it makes models of checkpoints.

    Usually a class derived from `rtprune.models.family.TransformersOcr`, which has all of this.
    """

    @property
    def family(self) -> Family:
        """What `rtprune models` shows."""

    def describe(self, checkpoint: Checkpoint) -> ModelCard:
        """What a checkpoint can be asked for, without loading its weights. Raises `ModelError` where it is none."""

    def load(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> OcrModel:
        """The model of a checkpoint. Raises `ModelError` where a file is missing or does not fit the others."""
