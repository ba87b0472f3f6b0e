"""OCR model families behind one small protocol: pictures to visual tokens, tokens to text, answers to regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rtprune.errors import ModelError, UsageError
from rtprune.models.checkpoint import Checkpoint, resolve
from rtprune.models.protocol import Answer, ModelCard, OcrModel, Prompt, Region, Views

if TYPE_CHECKING:
    import torch

__all__ = [
    "FAMILIES",
    "Answer",
    "Checkpoint",
    "ModelCard",
    "OcrModel",
    "Prompt",
    "Region",
    "Views",
    "describe",
    "load_model",
    "resolve",
]


class Family(Protocol):
    """What the module of a model family offers."""

    def describe(self, checkpoint: Checkpoint) -> ModelCard:
        """What the checkpoint can be asked for, without loading its weights. Raises ``ModelError``."""

    def load(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> OcrModel:
        """The model in memory. Raises ``ModelError``."""


def _deepseek_ocr() -> Family:
    from rtprune.models import deepseek_ocr  # brings transformers, which takes seconds to import

    return deepseek_ocr


#: ``model_type`` in a checkpoint's config.json -> the module of its family.
FAMILIES: dict[str, Callable[[], Family]] = {
    "deepseek_vl_v2": _deepseek_ocr,
}


def describe(name: str) -> ModelCard:
    """What a model can be asked for, without loading it; names as in ``load_model``.

    Raises:
        ModelError: there is no such model here.
    """
    checkpoint = resolve(name)
    return _family(checkpoint).describe(checkpoint)


def load_model(name: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> OcrModel:
    """Load a model by name: a published name, "mini", a local folder or an ``s3://`` prefix.

    Args:
        device: where it runs; a GPU where there is one when absent.
        dtype: what it computes in; bfloat16 on a GPU and float32 on a CPU when absent.

    Raises:
        ModelError: there is no such model here, or its files do not fit each other.
        UsageError: there is no such device here.
    """
    import torch

    checkpoint = resolve(name)
    family = _family(checkpoint)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "torch finds no GPU that it can use", "install its CUDA build and a driver that fits, or hide the GPU"
        )
    return family.load(checkpoint, place, dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16))


def _family(checkpoint: Checkpoint) -> Family:
    model_type = checkpoint.config.get("model_type")
    if model_type not in FAMILIES:
        raise ModelError(
            f"{checkpoint.folder}: model_type is {model_type!r}", f"this version reads: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]()
