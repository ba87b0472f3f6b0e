"""What the decoder is given for a page: the task's prompt around its pruned visual tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtprune.models.protocol import OcrModel
from rtprune.pruning import Pruned, TokenLayout


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """What the decoder is given for one page.

    Attributes:
        embeddings: [n, D].
        positions: int64 [A, n] on the model's A axes, with gaps where tokens were pruned.
        next_position: position, on every axis, of the first token of the answer, as if nothing had been pruned.
    """

    embeddings: Tensor
    positions: Tensor
    next_position: int


def assemble_prompt(model: OcrModel, task: str, layout: TokenLayout, pruned: Pruned) -> PromptEmbeddings:
    """The task's prompt around pruned visual tokens; every token at the position it has in the unpruned prompt."""
    device, prompt = model.device, model.prompt(task)
    before, after = prompt.before.to(device), prompt.after.to(device)
    visual = model.visual_positions(layout)
    start = before.numel()
    end = start + visual.extent
    next_position = end + after.numel()
    axes = visual.axes.to(device, non_blocking=True)
    positions = [
        torch.arange(start, device=device).expand(len(axes), -1),
        start + axes.index_select(1, pruned.positions.to(device)),
        torch.arange(end, next_position, device=device).expand(len(axes), -1),
    ]
    embeddings = [model.embed(before), pruned.features.to(device, model.dtype), model.embed(after)]
    return PromptEmbeddings(torch.cat(embeddings), torch.cat(positions, dim=1), next_position)
