"""Small random checkpoints in the published layout, for tests that need a model but no sense from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BEGIN, END, IMAGE = 0, 1, 2
SPECIAL = ("<begin>", "<end>", "<image>", "<unknown>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def character_tokenizer() -> Tokenizer:
    """One token per character, behind the special ones."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def random_config(**rtprune: Any) -> dict[str, Any]:
    """config.json of a tiny DeepSeek-OCR; ``rtprune`` says what it was trained for, if anything."""
    config: dict[str, Any] = {
        "model_type": "deepseek_vl_v2",
        "image_token_id": IMAGE,
        "language_config": {
            "vocab_size": len(SPECIAL) + len(CHARACTERS),
            "hidden_size": 32,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "max_position_embeddings": 4096,
            "bos_token_id": BEGIN,
            "eos_token_id": END,
        },
        "vision_config": {
            "sam_config": {
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "mlp_dim": 32,
                "output_channels": 8,
                "downsample_channels": [8, 16],
                "global_attn_indexes": [1],
                "image_size": 512,
            },
            "encoder_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
        },
    }
    return config | {"rtprune": rtprune} if rtprune else config


def write_random_checkpoint(folder: Path, seed: int = 0, config: dict[str, Any] | None = None) -> Path:
    """Write config.json, tokenizer.json and bfloat16 weights under their published names; returns the folder.

    Weights are drawn with a standard deviation of 1 / sqrt(fan-in), so that outputs depend on the picture.
    """
    from transformers import UnlimitedOcrForConditionalGeneration

    from rtprune.models.deepseek_ocr import DeepSeekOcr
    from rtprune.models.family import published_state_dict
    from rtprune.models.weights import save_tensors

    config = config or random_config()
    generator = torch.Generator().manual_seed(seed)
    tensors = published_state_dict(UnlimitedOcrForConditionalGeneration(DeepSeekOcr.configuration(config)))
    tensors["model.vision_model.embeddings.patch_embedding.weight"] = torch.zeros(16, 3, 14, 14)
    for name in sorted(tensors):
        shape = tensors[name].shape
        values = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and name.endswith("weight")
        tensors[name] = 1 + 0.1 * values if norm else values / max(1, shape[1:].numel()) ** 0.5
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    character_tokenizer().save(str(folder / "tokenizer.json"))
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    return folder
