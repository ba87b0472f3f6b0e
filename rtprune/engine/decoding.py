"""Greedy decoding of a batch of prompts of unlike length, with gaps in their positions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtprune.engine.guards import PageGuard
from rtprune.engine.result import FinishReason
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


@dataclass(frozen=True)
class Decoded:
    """One page's answer.

    Attributes:
        ids: the answer's tokens, the end token included where there was one.
        prefill_ms: this page's even share of the batch's prefill.
        decode_ms: this page's even share of the batch's further steps.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float


def assemble_prompt(model: OcrModel, task: str, layout: TokenLayout, pruned: Pruned) -> PromptEmbeddings:
    """The task's prompt around pruned visual tokens; every token at the position it has in the unpruned prompt."""
    prompt = model.prompt(task)
    before, after = prompt.before.to(model.device), prompt.after.to(model.device)
    visual = model.visual_positions(layout)
    start = before.numel()
    end = start + visual.extent
    next_position = end + after.numel()
    positions = [
        torch.arange(start).expand(len(visual.axes), -1),
        start + visual.axes[:, pruned.positions.cpu()],
        torch.arange(end, next_position).expand(len(visual.axes), -1),
    ]
    embeddings = [model.embed(before), pruned.features.to(model.device, model.dtype), model.embed(after)]
    return PromptEmbeddings(torch.cat(embeddings), torch.cat(positions, dim=1).to(model.device), next_position)


def decode(model: OcrModel, prompts: Sequence[PromptEmbeddings], max_tokens: int) -> list[Decoded]:
    """Answers to the prompts, in their order: greedy, at most ``max_tokens`` tokens each.

    Prompts are padded on the left to one length and read in one prefill. A page leaves the batch with its last token,
    and its rows of the cache with it.
    """
    ids: list[list[int]] = [[] for _ in prompts]
    reasons: list[FinishReason] = ["length"] * len(prompts)
    guards = [PageGuard(model.end_token_ids, max_tokens, model.repeatable_token_ids) for _ in prompts]
    live = list(range(len(prompts)))
    start = clock_ms(model.device)
    embeddings, positions, mask = _pad_left(prompts)
    upcoming = torch.tensor([prompt.next_position for prompt in prompts], device=model.device)
    axes = len(positions)
    logits, cache = model.decoder(embeddings, positions, mask)
    tokens = logits[:, -1].argmax(dim=-1)
    prefilled = clock_ms(model.device)
    while True:
        staying = []
        for row, (page, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
            ids[page].append(token)
            reason = guards[page].after(token)
            if reason is None:
                staying.append(row)
            else:
                reasons[page] = reason
        if not staying:
            break
        if len(staying) < len(live):
            live = [live[row] for row in staying]
            rows = torch.tensor(staying, device=model.device)
            tokens, upcoming, mask = tokens[rows], upcoming[rows], mask[rows]
            cache.batch_select_indices(rows)
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        logits, cache = model.decoder(model.embed(tokens[:, None]), upcoming.expand(axes, -1)[..., None], mask, cache)
        tokens = logits[:, -1].argmax(dim=-1)
        upcoming = upcoming + 1
    ended = clock_ms(model.device)
    shares = (prefilled - start) / len(prompts), (ended - prefilled) / len(prompts)
    return [Decoded(tuple(found), reason, *shares) for found, reason in zip(ids, reasons, strict=True)]


def clock_ms(device: torch.device) -> float:
    """Time in milliseconds at which all work given to ``device`` so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000.0


def _pad_left(prompts: Sequence[PromptEmbeddings]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, n, D], positions [A, B, n] and mask [B, n] of prompts of unlike length."""
    longest = max(len(prompt.embeddings) for prompt in prompts)
    first = prompts[0].embeddings
    axes = len(prompts[0].positions)
    embeddings = first.new_zeros(len(prompts), longest, first.shape[1])
    positions = torch.zeros(axes, len(prompts), longest, dtype=torch.int64, device=first.device)
    mask = torch.zeros_like(positions[0])
    for row, prompt in enumerate(prompts):
        begin = longest - len(prompt.embeddings)
        embeddings[row, begin:] = prompt.embeddings
        positions[:, row, begin:] = prompt.positions
        mask[row, begin:] = 1
    return embeddings, positions, mask
