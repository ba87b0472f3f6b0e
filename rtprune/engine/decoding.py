"""Decoding of pages that come and go: prompts of unlike length, gaps in their positions, guesses checked."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rtprune.engine.cache import SlotCache
from rtprune.engine.drafting import Drafter
from rtprune.engine.guards import PageGuard
from rtprune.engine.result import FinishReason
from rtprune.models.protocol import OcrModel
from rtprune.pruning import Pruned, TokenLayout

Name = TypeVar("Name", bound=Hashable)


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
        prefill_ms: this page's even share of the prefill it was in.
        decode_ms: the sum of its even shares of the steps it was in.
        steps: passes of the decoder that it took, the prefill included.
        drafted: tokens that were guessed.
        accepted: guesses that were right, each a step saved.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float
    steps: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(eq=False)
class _Live(Generic[Name]):
    """A page that is being decoded; ``length`` of its tokens are in its slot, the last of ``ids`` is not."""

    name: Name
    guard: PageGuard
    drafter: Drafter
    prompt_length: int
    length: int
    next_position: int
    prefill_ms: float
    sampler: Sampler | None
    ids: list[int] = field(default_factory=list)
    decode_ms: float = 0.0
    steps: int = 1
    drafted: int = 0
    accepted: int = 0

    def take(self, tokens: Sequence[int]) -> FinishReason | None:
        """The next tokens of the answer; why it ends among them, where it does."""
        for token in tokens:
            self.ids.append(token)
            reason = self.guard.after(token)
            if reason is not None:
                return reason
        return None

    def ended(self, reason: FinishReason) -> tuple[Name, Decoded]:
        times = self.prefill_ms, self.decode_ms
        return self.name, Decoded(tuple(self.ids), reason, *times, self.steps, self.drafted, self.accepted)


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


class Sampler:
    """Draws a page's tokens at a temperature, the same ones in any company."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._chance = torch.Generator().manual_seed(0)

    def draw(self, logits: Tensor) -> int:
        """A token by its ``logits`` [V]."""
        weights = (logits.double().cpu() / self._temperature).softmax(dim=-1)
        return int(torch.multinomial(weights, 1, generator=self._chance))


class Decoding(Generic[Name]):
    """Pages decoded together, each until its own end; others take their slots at any step.

    A page's answer is that which it has alone, at most ``max_tokens`` tokens: greedy, unless it was to be sampled.
    """

    def __init__(self, model: OcrModel, slots: int, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._cache = SlotCache(slots)
        self._live: list[_Live[Name]] = []  # in the order of their slots
        self._axes = 1

    @property
    def free(self) -> int:
        """Slots that no page has."""
        return self._cache.slots - len(self._live)

    @property
    def names(self) -> list[Name]:
        """Pages that have one."""
        return [page.name for page in self._live]

    @torch.inference_mode()
    def join(
        self,
        prompts: Sequence[tuple[Name, PromptEmbeddings]],
        layers: Sequence[Sequence[int]] = (),
        temperatures: Sequence[float] = (),
    ) -> list[tuple[Name, Decoded]]:
        """Read the prompts of pages, at most ``free``, in one pass; those whose answer ends at once are returned.

        Args:
            layers: token ids of each page's text layer, to be guessed from; nothing is guessed where they are absent.
            temperatures: of each page's sampling; greedy where they are 0 or absent.
        """
        model = self._model
        start = clock_ms(model.device)
        embeddings, positions, real = pad_left([prompt for _, prompt in prompts])
        rows = range(len(self._live), len(self._live) + len(prompts))
        self._cache.prefill(rows, real)
        self._axes = len(positions)
        longest = real.shape[1]
        earlier = torch.arange(longest, device=real.device)
        visible = (earlier <= earlier[:, None]) & real[:, None]
        logits, _ = model.decoder(embeddings, positions, _mask(visible, embeddings.dtype), self._cache)
        greedy = logits[:, -1].argmax(dim=-1).tolist()
        samplers = [Sampler(heat) if heat else None for heat in temperatures or [0.0] * len(prompts)]
        tokens = [
            token if sampler is None else sampler.draw(logits[row, -1])
            for row, (token, sampler) in enumerate(zip(greedy, samplers, strict=True))
        ]
        share = (clock_ms(model.device) - start) / len(prompts)
        joined = [
            _Live(
                name,
                PageGuard(model.end_token_ids, self._max_tokens, model.repeatable_token_ids),
                Drafter(layers[index] if layers else ()),
                len(prompt.embeddings),
                len(prompt.embeddings),
                prompt.next_position,
                share,
                samplers[index],
            )
            for index, (name, prompt) in enumerate(prompts)
        ]
        self._live += joined
        outcomes = [(page, page.take([token])) for page, token in zip(joined, tokens, strict=True)]
        for page in joined:
            page.drafter.learn(page.ids, 0, 0)
        return self._leave(outcomes)

    @torch.inference_mode()
    def step(self, *, guess: bool = True) -> list[tuple[Name, Decoded]]:
        """One token more of every page, or several where guesses are right; pages that end with it leave."""
        model, live = self._model, self._live
        start = clock_ms(model.device)
        # a guess is checked against the one token that is greedy: there is none where tokens are drawn
        guesses = [page.drafter.guess(page.ids) if guess and page.sampler is None else [] for page in live]
        count = 1 + max(map(len, guesses))
        tokens = torch.tensor(
            [
                [page.ids[-1], *guessed, *[0] * (count - 1 - len(guessed))]
                for page, guessed in zip(live, guesses, strict=True)
            ],
            device=model.device,
        )
        ahead = torch.arange(count, device=model.device)
        places = torch.tensor([page.length for page in live], device=model.device)[:, None] + ahead
        reach = max(page.length for page in live) + count
        self._cache.append(places, reach)
        upcoming = torch.tensor([page.next_position for page in live], device=model.device)[:, None] + ahead
        mask = _mask(self._visible(places, reach), model.dtype)
        positions = upcoming.expand(self._axes, -1, -1)
        logits, _ = model.decoder(model.embed(tokens), positions, mask, self._cache, count)
        said = logits.argmax(dim=-1).tolist()
        for row, page in enumerate(live):
            if page.sampler is not None:
                said[row] = [page.sampler.draw(logits[row, 0])]
        share = (clock_ms(model.device) - start) / len(live)
        outcomes = []
        for page, guessed, answer in zip(live, guesses, said, strict=True):
            agreed = _agreement(guessed, answer)
            page.length += agreed + 1
            page.next_position += agreed + 1
            page.steps += 1
            page.drafted += len(guessed)
            page.decode_ms += share
            before = len(page.ids)
            reason = page.take(answer[: agreed + 1])
            page.accepted += len(page.ids) - before - 1  # what follows an end is no part of the answer
            page.drafter.learn(page.ids, len(guessed), agreed)
            outcomes.append((page, reason))
        return self._leave(outcomes)

    def clear(self) -> None:
        """Let all pages go."""
        self._live.clear()

    def _visible(self, at: Tensor, reach: int) -> Tensor:
        """bool [n, count, reach]: which tokens of its slot one at the places ``at`` [n, count] attends to."""
        columns = torch.arange(reach, device=at.device)
        seen = columns <= at[..., None]
        window = self._model.answer_window
        if window is not None:
            prompts = torch.tensor([page.prompt_length for page in self._live], device=at.device)
            seen &= (columns < prompts[:, None, None]) | (columns > at[..., None] - window)
        return seen

    def _leave(self, outcomes: Sequence[tuple[_Live[Name], FinishReason | None]]) -> list[tuple[Name, Decoded]]:
        """Take out the pages that have ended; the last ones move into their slots."""
        left = []
        for page, reason in outcomes:
            if reason is None:
                continue
            left.append(page.ended(reason))
            slot = self._live.index(page)
            last = self._live.pop()
            if last is not page:
                self._cache.move(len(self._live), slot, last.length)
                self._live[slot] = last
        return left


def decode(
    model: OcrModel,
    prompts: Sequence[PromptEmbeddings],
    max_tokens: int,
    layers: Sequence[Sequence[int]] = (),
    temperatures: Sequence[float] = (),
    *,
    guess: bool = True,
) -> list[Decoded]:
    """Answers to the prompts, in their order, decoded all together; see `Decoding`."""
    if not prompts:
        return []
    decoding: Decoding[int] = Decoding(model, len(prompts), max_tokens)
    found = dict(decoding.join(list(enumerate(prompts)), layers, temperatures))
    while decoding.names:
        found |= decoding.step(guess=guess)
    return [found[index] for index in range(len(prompts))]


def clock_ms(device: torch.device) -> float:
    """Time in milliseconds at which all work given to ``device`` so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000.0


def _agreement(guessed: Sequence[int], said: Sequence[int]) -> int:
    """How many of the tokens ``guessed`` the decoder has said as well before it said another."""
    for count, (token, own) in enumerate(zip(guessed, said, strict=False)):
        if token != own:
            return count
    return len(guessed)


def _mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """``visible`` [B, n, m] as what is added to attention's scores: [B, 1, n, m]."""
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def pad_left(prompts: Sequence[PromptEmbeddings]) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, n, D], positions [A, B, n] and bool [B, n], false where padded, of prompts of unlike length."""
    longest = max(len(prompt.embeddings) for prompt in prompts)
    first = prompts[0].embeddings
    embeddings = first.new_zeros(len(prompts), longest, first.shape[1])
    positions = torch.zeros(len(prompts[0].positions), len(prompts), longest, dtype=torch.int64, device=first.device)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool, device=first.device)
    for row, prompt in enumerate(prompts):
        begin = longest - len(prompt.embeddings)
        embeddings[row, begin:] = prompt.embeddings
        positions[:, row, begin:] = prompt.positions
        real[row, begin:] = True
    return embeddings, positions, real
