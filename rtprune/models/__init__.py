"""OCR model families behind one small protocol: pictures to visual tokens, tokens to text, answers to regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rtprune.errors import ModelError
from rtprune.models.checkpoint import Checkpoint, resolve
from rtprune.models.protocol import Answer, OcrModel, Prompt, Region, Views

if TYPE_CHECKING:
    import torch

__all__ = ["FAMILIES", "Answer", "Checkpoint", "OcrModel", "Prompt", "Region", "Views", "load_model", "resolve"]


def _deepseek_ocr(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> OcrModel:
    from rtprune.models import deepseek_ocr  # brings transformers, which takes seconds to import

    return deepseek_ocr.load(checkpoint, device, dtype)


#: ``model_type`` in a checkpoint's config.json -> how its family is loaded.
FAMILIES: dict[str, Callable[[Checkpoint, torch.device, torch.dtype], OcrModel]] = {
    "deepseek_vl_v2": _deepseek_ocr,
}


def load_model(name: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> OcrModel:
    """Load a model by name: a published name, "mini", a local folder or an ``s3://`` prefix.

    Args:
        device: where it runs; a GPU where there is one when absent.
        dtype: what it computes in; bfloat16 on a GPU and float32 on a CPU when absent.

    Raises:
        ModelError: there is no such model here, or its files do not fit each other.
    """
    import torch

    checkpoint = resolve(name)
    family = checkpoint.config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"{checkpoint.folder}: model_type is {family!r}", f"this version reads: {', '.join(sorted(FAMILIES))}"
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return FAMILIES[family](checkpoint, place, dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16))
