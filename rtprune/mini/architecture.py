"""Size, alphabet and first weights of the built-in checkpoint: DeepSeek-OCR's own classes, made small."""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

BOS, EOS, PAD, IMAGE = 0, 1, 2, 3
CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
FIRST_CHARACTER = 4
_IDS = {character: FIRST_CHARACTER + index for index, character in enumerate(CHARACTERS)}
PROMPT = "\nFree OCR."

CONFIG: dict[str, Any] = {
    "model_type": "deepseek_vl_v2",
    "image_token_id": IMAGE,
    "rtprune": {"modes": ["tiny"], "tasks": ["text"]},
    "language_config": {
        "vocab_size": FIRST_CHARACTER + len(CHARACTERS),
        "hidden_size": 256,
        "intermediate_size": 768,
        "moe_intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    },
    "vision_config": {
        "sam_config": {
            "hidden_size": 128,
            "output_channels": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_dim": 512,
            "image_size": 512,
            "window_size": 8,
            "global_attn_indexes": [],
            "downsample_channels": [192, 256],
        },
        "encoder_config": {
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "image_size": 128,
            "patch_size": 16,
        },
    },
}


def character_ids(text: str) -> list[int]:
    """Token ids of ``text``, one per character. Raises ``ValueError`` for a character outside the alphabet."""
    try:
        return [_IDS[character] for character in text]
    except KeyError as error:
        raise ValueError(f"the alphabet has no {error.args[0]!r}") from error


def tokenizer() -> Tokenizer:
    """The character-level tokenizer: one token per character, behind the four special ones."""
    special = ["<bos>", "<eos>", "<pad>", "<image>"]
    vocabulary = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(special)
    return made


@torch.no_grad()
def initialise_by_fan_in(model: nn.Module, generator: torch.Generator) -> None:
    """Weights with standard deviation 1/sqrt(fan in); the library's constant 0.02 teaches a small encoder nothing."""
    for name, parameter in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if parameter.ndim == 1:
            continue  # norms stay one, biases zero; the two marker vectors are drawn by the model itself
        if "rel_pos" in last or "pos_embed" in last:
            deviation = 0.02
        elif "position_embedding" in name:
            deviation = 0.1
        elif "embed_tokens" in name:
            deviation = 0.5
        else:
            # expert tensors are [experts, out, in]; convolutions [out, in, height, width]
            fan_in = parameter.shape[-1] if parameter.ndim == 3 else math.prod(parameter.shape[1:])
            deviation = 1 / math.sqrt(fan_in)
        parameter.normal_(0.0, deviation, generator=generator)
