"""Which of a GPU's faster ways the engine takes: those that give what the plain ones give, tried where it runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtprune.engine.faults import fault_of
from rtprune.models.attention import FUSED_TYPES, SlottedTokens, pack, slotted
from rtprune.models.protocol import OcrModel

_log = logging.getLogger(__name__)

_NEAR = 0.02  # by which attention over numbers of size 1 may differ in a 16-bit type


@dataclass(frozen=True)
class Kernels:
    """How passes are computed.

    Attributes:
        fused: attention over prompts and slots of unlike length by one kernel that reads no more than there is.
        captured: steps as CUDA graphs.
    """

    fused: bool = False
    captured: bool = False


PLAIN = Kernels()


def kernels_of(model: OcrModel) -> Kernels:
    """The fastest kernels that can be trusted with ``model`` on its device; a warning where one is left out.

    A captured step is held against a plain one when it first occurs, see `rtprune.engine.step.Stepper`.
    """
    if model.device.type != "cuda":
        return PLAIN
    # cuDNN's attention is planned anew for every shape, which takes tens of milliseconds each
    torch.backends.cuda.enable_cudnn_sdp(False)
    fused = model.dtype in FUSED_TYPES and model.answer_window is None
    if fused:
        fault = _fault(model)
        if fault:
            _log.warning("attention is computed by the plain kernels, which are slower: %s", fault)
        fused = fault is None
    return Kernels(fused, captured=True)


@torch.inference_mode()
def _fault(model: Any) -> str | None:
    """What is wrong with the fused kernel on this device, by comparison with the plain ones on random numbers."""
    try:
        text = model.network.config.get_text_config()
        heads, groups = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        far = max(
            prompt_difference(heads, groups or heads, width, model.device, model.dtype),
            *(slot_difference(tokens, heads, groups or heads, width, model.device, model.dtype) for tokens in (1, 4)),
        )
    except Exception as error:
        if fault_of(error) == "device":
            raise
        # a kernel that does not run is not taken
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None if far <= _NEAR else f"the fused one is off by {far:.3g}"


def prompt_difference(heads: int, groups: int, width: int, device: torch.device, dtype: torch.dtype) -> float:
    """Largest difference between both ways of attending in packed prompts of 70, 1 and 129 tokens."""
    lengths = (70, 1, 129)
    queries, keys, values = (
        _random((1, count, sum(lengths), width), device, dtype) for count in (heads, groups, groups)
    )
    fused, plain = (
        pack(lengths, device, fused=way).attend(queries, keys, values, width**-0.5) for way in (True, False)
    )
    return float((fused - plain).abs().max().nan_to_num(torch.inf))


def slot_difference(
    tokens: int, heads: int, groups: int, width: int, device: torch.device, dtype: torch.dtype
) -> float:
    """The same for ``tokens`` of three pages in slots of 256, of which one has only just begun.

    Behind each page's tokens the fused kernel finds what is no number: it must not read so far.
    """
    queries = _random((3, heads, tokens, width), device, dtype)
    keys, values = (_random((3, 256, groups, width), device, dtype) for _ in range(2))
    places = torch.tensor([[0], [97], [256 - tokens]], device=device) + torch.arange(tokens, device=device)
    starts = torch.tensor([0, 1, 2], device=device)
    plain = slotted(starts, places, places[:, :1], 256, None, dtype).attend(queries, keys, values, width**-0.5)
    for page, length in enumerate((places[:, -1] + 1).tolist()):
        keys[page, length:] = values[page, length:] = torch.nan
    pooled = SlottedTokens(256 * starts, places, None)
    fused = pooled.attend(queries, keys.flatten(0, 1), values.flatten(0, 1), width**-0.5)
    return float((fused - plain).abs().max().nan_to_num(torch.inf))


def _random(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    chance = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=chance).to(device, dtype)
