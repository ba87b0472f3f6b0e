"""What tests of model families share: a random checkpoint of any of them, and the way from pictures to an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rtprune.engine.decoding import PromptEmbeddings, assemble_prompt, decode
from rtprune.models.family import TransformersOcr, published_state_dict
from rtprune.models.weights import save_tensors
from rtprune.pruning import PruneConfig, prune
from tests.checkpoints import character_tokenizer

CHARACTER_TOKENS = character_tokenizer().get_vocab_size()


def write_family(
    folder: Path,
    family: type[TransformersOcr],
    config: Mapping[str, Any],
    marks: Sequence[str],
    unused: Mapping[str, tuple[int, ...]],
) -> Path:
    """Write a folder in the published layout with random weights; returns it.

    The tokenizer has a token for each character, and the ``marks`` behind them. Weights are drawn with a standard
    deviation of 1 / sqrt(fan-in), so that answers depend on the picture.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = published_state_dict(family.network_class(family.configuration(config)))
    tensors |= {name: torch.zeros(shape) for name, shape in unused.items()}
    for name in sorted(tensors):
        shape = tensors[name].shape
        values = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and name.endswith("weight")
        tensors[name] = 1 + 0.1 * values if norm else values / max(1, shape[1:].numel()) ** 0.5
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens(list(marks))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    return folder


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Coloured blocks."""
    values = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


def full_size(family: type[TransformersOcr], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, without their memory."""
    with torch.device("meta"):
        tensors = published_state_dict(family.network_class(family.configuration(config)))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def safetensors_size(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None) -> int:
    """Bytes of a safetensors file of bfloat16 tensors sorted by name, as the library writes it without padding."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 2 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end


def prompts(model: TransformersOcr, pictures: Sequence[Image.Image], ratio: float) -> list[PromptEmbeddings]:
    """Each picture's prompt with that share of its visual tokens pruned."""
    views = [model.prepare(picture, model.default_mode) for picture in pictures]
    return [
        assemble_prompt(
            model, model.default_task, view.layout, prune(features, view.layout, config=PruneConfig(ratio=ratio))
        )
        for view, features in zip(views, model.encode(views), strict=True)
    ]


def answers(model: TransformersOcr, pictures: Sequence[Image.Image], ratio: float, count: int) -> list[list[int]]:
    """Greedy tokens, at most ``count``, of pictures read as one batch."""
    return [list(found.ids) for found in decode(model, prompts(model, pictures, ratio), count)]


def one_pass(model: TransformersOcr, prompt: PromptEmbeddings, ids: Sequence[int]) -> list[int]:
    """What the decoder answers at each place of a prompt with its answer, all of it in one pass without a cache."""
    embeddings = torch.cat([prompt.embeddings, model.embed(torch.tensor(ids[:-1], dtype=torch.long))])
    axes = len(prompt.positions)
    later = torch.arange(prompt.next_position, prompt.next_position + len(ids) - 1).expand(axes, -1)
    positions = torch.cat([prompt.positions, later], dim=1)[:, None]
    with torch.inference_mode():
        logits: Tensor = model.network(
            inputs_embeds=embeddings[None],
            position_ids=positions if axes > 1 else positions[0],
            attention_mask=torch.ones(1, len(embeddings), dtype=torch.long),
            use_cache=True,
        ).logits
    return logits[0, -len(ids) :].argmax(dim=-1).tolist()
