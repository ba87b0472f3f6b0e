"""What tests of model families share: a network without memory, and greedy decoding spelled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.models import OcrModel
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import published_state_dict


def on_meta(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of a checkpoint's tensors, without their memory."""
    with torch.device("meta"):
        return published_state_dict(UnlimitedOcrForConditionalGeneration(DeepSeekOcr.configuration(config)))


def greedy(model: OcrModel, prompts: Sequence[Tensor], positions: Sequence[Tensor], count: int) -> list[list[int]]:
    """Greedy tokens of prompts [n_i, D] at their positions, left-padded to one batch, through the protocol alone."""
    longest = max(len(prompt) for prompt in prompts)
    embeds = torch.zeros(len(prompts), longest, model.hidden_size)
    position_ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, (prompt, position) in enumerate(zip(prompts, positions, strict=True)):
        embeds[row, longest - len(prompt) :] = prompt
        position_ids[row, longest - len(prompt) :] = position
        mask[row, longest - len(prompt) :] = 1
    logits, cache = model.decoder(embeds, position_ids[None], mask)
    found = [logits[:, -1].argmax(dim=-1)]
    for step in range(1, count):
        mask = torch.cat([mask, torch.ones(len(prompts), 1, dtype=torch.long)], dim=1)
        logits, cache = model.decoder(
            model.embed(found[-1])[:, None], position_ids[None, :, -1:] + step, mask, past_key_values=cache
        )
        found.append(logits[:, -1].argmax(dim=-1))
    return torch.stack(found, dim=1).tolist()
