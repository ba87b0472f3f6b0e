"""OCR model families behind one small protocol: pictures to visual tokens, tokens to text, answers to regions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rtprune.errors import ModelError, UsageError
from rtprune.models.checkpoint import Checkpoint, resolve
from rtprune.models.protocol import Answer, ModelCard, OcrModel, Prompt, Region, Views, VisualPositions

if TYPE_CHECKING:
    import torch

    from rtprune.models.family import TransformersOcr

__all__ = [
    "FAMILIES",
    "Answer",
    "Checkpoint",
    "ModelCard",
    "OcrModel",
    "Prompt",
    "Region",
    "Views",
    "VisualPositions",
    "describe",
    "families",
    "load_model",
    "resolve",
]


#: What a checkpoint's config.json calls itself (``architectures`` or else ``model_type``) -> the class that reads it.
FAMILIES = {
    "DeepseekOCRForCausalLM": "rtprune.models.deepseek_ocr:DeepSeekOcr",
    "deepseek_vl_v2": "rtprune.models.deepseek_ocr:DeepSeekOcr",
    "DeepseekOCR2ForCausalLM": "rtprune.models.deepseek_ocr2:DeepSeekOcr2",
    "DeepseekOcr2ForConditionalGeneration": "rtprune.models.deepseek_ocr2:DeepSeekOcr2",
    "deepseek_ocr2": "rtprune.models.deepseek_ocr2:DeepSeekOcr2",
    "UnlimitedOCRForCausalLM": "rtprune.models.unlimited_ocr:UnlimitedOcr",
    "UnlimitedOcrForConditionalGeneration": "rtprune.models.unlimited_ocr:UnlimitedOcr",
    "unlimited-ocr": "rtprune.models.unlimited_ocr:UnlimitedOcr",
    "unlimited_ocr": "rtprune.models.unlimited_ocr:UnlimitedOcr",
    "LightOnOCRForConditionalGeneration": "rtprune.models.lighton_ocr:LightOnOcr",
    "LightOnOcrForConditionalGeneration": "rtprune.models.lighton_ocr:LightOnOcr",
    "lighton_ocr": "rtprune.models.lighton_ocr:LightOnOcr",
    "GlmOcrForConditionalGeneration": "rtprune.models.glm_ocr:GlmOcr",
    "glm_ocr": "rtprune.models.glm_ocr:GlmOcr",
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


def families() -> list[type[TransformersOcr]]:
    """The model families that can be read, in the order of `FAMILIES`."""
    return [_class(home) for home in dict.fromkeys(FAMILIES.values())]


def _family(checkpoint: Checkpoint) -> type[TransformersOcr]:
    names = [*(checkpoint.config.get("architectures") or []), checkpoint.config.get("model_type")]
    for name in names:
        if name in FAMILIES:
            return _class(FAMILIES[name])
    raise ModelError(
        f"{checkpoint.folder}: its config.json calls the model {' or '.join(map(repr, names))}",
        f"this version reads: {', '.join(sorted(FAMILIES))}",
    )


def _class(home: str) -> type[TransformersOcr]:
    module, name = home.split(":")  # imported when asked for: transformers takes seconds
    found: type[TransformersOcr] = getattr(import_module(module), name)
    return found
