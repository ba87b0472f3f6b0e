"""DeepSeek-OCR at its full size with random weights: as fast as the published ones, without their file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.bench.pages import drawn_pages
from rtprune.engine.budget import free_bytes
from rtprune.errors import ModelError
from rtprune.models import OcrModel, load_model
from rtprune.models.checkpoint import BUILT_IN
from rtprune.models.deepseek_ocr import DeepSeekOcr

NAME = "random"

#: The decoder as the published config.json has it; without a ``vision_config`` the encoders have their full sizes.
FULL_SIZE: Mapping[str, Any] = {
    "language_config": {
        "vocab_size": 129280,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "moe_intermediate_size": 896,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 8192,
        "bos_token_id": 0,
    }
}
#: Memory to have free against that of the weights alone: for views, caches and what passes between layers.
_HEADROOM = 1.5
#: Deviation of what a layer of weights gives, of inputs whose deviation is 1; 0.02 a weight at full size.
_GAIN = 0.7
#: How much larger queries and keys are than transformers would begin with: as of a trained model, attention picks.
_PICKY = 4.0
_SURROGATES = range(0xD800, 0xE000)  # code points that are no characters


def bench_model(name: str, dtype: torch.dtype | None = None) -> OcrModel:
    """The model called ``name``: "random" is `random_model` at full size, else see `rtprune.models.load_model`.

    Raises:
        ModelError: there is no such model, or no memory for it.
    """
    if name != NAME:
        return load_model(name, dtype=dtype)
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return random_model(device=place, dtype=dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16))


def models_to_compare(name: str, dtype: str | None) -> tuple[OcrModel, OcrModel | None]:
    """The model called ``name``, and the same in float32 where it is the built-in one and computes in another type.

    Args:
        dtype: "bfloat16" or "float32"; the device's usual one when absent.
    """
    model = bench_model(name, getattr(torch, dtype) if dtype else None)
    differs = name == BUILT_IN and model.dtype != torch.float32
    return model, load_model(name, dtype=torch.float32) if differs else None


def random_model(config: Mapping[str, Any] | None = None, *, device: torch.device, dtype: torch.dtype) -> DeepSeekOcr:
    """A DeepSeek-OCR of random weights, made on ``device`` itself, whose answers never end before the token limit.

    Its tokens are single characters, its weights the same in every process on one kind of device.

    Args:
        config: as a config.json, whose ``eos_token_id`` is not heeded; the full size when absent.

    Raises:
        ModelError: the device has not the memory; found out before any is taken.
    """
    sizes = _configuration(config or FULL_SIZE)
    vocabulary: int = sizes.text_config.vocab_size
    with torch.device("meta"):
        count = sum(weight.numel() for weight in UnlimitedOcrForConditionalGeneration(sizes).parameters())
    _require_memory(int(count * dtype.itemsize * _HEADROOM), device)
    with torch.device(device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        network: Any = UnlimitedOcrForConditionalGeneration._from_config(sizes, dtype=dtype)
        torch.nn.init.normal_(network.get_input_embeddings().weight)
    model = DeepSeekOcr(network, character_tokenizer(vocabulary), name=NAME, revision=NAME)
    model.repeatable_token_ids = frozenset(range(vocabulary))  # nor does a loop end an answer
    _tell_pages_apart(model)
    return model


def _configuration(config: Mapping[str, Any]) -> Any:
    """transformers' configuration without an end token, whose random weights pass on what they are given, at any width.

    What it would begin SAM with is so small that the encoder's answer would not depend on the picture.
    """
    found = DeepSeekOcr.configuration(
        {**config, "language_config": {**config["language_config"], "eos_token_id": None}}
    )
    for part in (found.text_config, found.vision_config.sam_config, found.vision_config.encoder_config):
        part.initializer_range = _GAIN / part.hidden_size**0.5
    return found


@torch.inference_mode()
def _tell_pages_apart(model: DeepSeekOcr) -> None:
    """Make pages and their tokens as unlike as real ones: else all pages say the same and share a few experts, and
    pruning takes most tokens instead of about a sixth."""
    for layer in model.network.model.language_model.layers:
        layer.self_attn.q_proj.weight.mul_(_PICKY)
        layer.self_attn.k_proj.weight.mul_(_PICKY)
    views = model.prepare(drawn_pages(1, built_in=False)[0].picture, model.modes[0])
    (features,) = model.encode([views])
    shared = features[views.layout.free.to(features.device)].float().mean(dim=0)
    model.network.model.multi_modal_projector.bias.sub_(shared)


def _require_memory(needed: int, device: torch.device) -> None:
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ModelError(
            f"random weights of this size need {needed / 1e9:.1f} GB of memory on {device}, "
            f"{free / 1e9:.1f} GB are free",
            "free some, take --dtype bfloat16, or use a GPU",
        )


def character_tokenizer(size: int) -> Tokenizer:
    """Every token is one character: the id is its code point, counted without surrogates."""
    characters = [chr(id if id < _SURROGATES.start else id + len(_SURROGATES)) for id in range(size)]
    vocabulary = {character: id for id, character in enumerate(characters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=characters[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
