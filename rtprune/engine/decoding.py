"""Decoding of pages that come and go: prompts of unlike length, gaps in their positions, guesses checked."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from rtprune.engine.cache import STEP, PageCache, PooledCache, SlotCache
from rtprune.engine.drafting import MOST, Drafter
from rtprune.engine.guards import PageGuard
from rtprune.engine.kernels import PLAIN, Kernels
from rtprune.engine.prompts import PromptEmbeddings
from rtprune.engine.result import FinishReason
from rtprune.engine.step import TOKENS, Said, Stepper, likeliest
from rtprune.models.attention import pack
from rtprune.models.protocol import OcrModel

Name = TypeVar("Name", bound=Hashable)

SPARE = MOST + 1  # tokens behind a page's own that a step may write
ROOM = 512  # tokens of an answer for which there must be room before a page joins


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
        log_probabilities: of each of ``ids``, in nats, as the decoder has them.
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    log_probabilities: tuple[float, ...] = ()


@dataclass(eq=False)
class _Live(Generic[Name]):
    """A page that is being decoded; ``length`` of its tokens are in its slot, the last of ``ids`` is not."""

    name: Name
    guard: PageGuard
    drafter: Drafter
    prompt_length: int
    length: int
    next_position: int
    sampler: Sampler | None
    prefill_ms: float = 0.0
    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    decode_ms: float = 0.0
    steps: int = 1
    drafted: int = 0
    accepted: int = 0
    full: bool = False

    def take(self, tokens: Sequence[int], log_probabilities: Sequence[float]) -> FinishReason | None:
        """The next tokens of the answer; why it ends among them, where it does."""
        for token, log_probability in zip(tokens, log_probabilities, strict=True):
            self.ids.append(token)
            self.log_probabilities.append(log_probability)
            reason = self.guard.after(token)
            if reason is not None:
                return reason
        return None

    def ended(self, reason: FinishReason) -> tuple[Name, Decoded]:
        counts = self.steps, self.drafted, self.accepted
        times = self.prefill_ms, self.decode_ms
        return self.name, Decoded(tuple(self.ids), reason, *times, *counts, tuple(self.log_probabilities))


class Sampler:
    """Draws a page's tokens at a temperature, the same ones in any company."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._chance = torch.Generator().manual_seed(0)

    def draw(self, logits: Tensor) -> tuple[int, float]:
        """A token by its ``logits`` [V], and its log-probability at temperature 1."""
        wide = logits.double().cpu()
        token = int(torch.multinomial((wide / self._temperature).softmax(dim=-1), 1, generator=self._chance))
        return token, float(wide.log_softmax(dim=-1)[token])


class Decoding(Generic[Name]):
    """Pages decoded together, each until its own end; others take their slots at any step.

    A page's answer is that which it has alone, at most ``max_tokens`` tokens: greedy, unless it was to be sampled.

    Args:
        tokens: that the cache holds over all pages; as many as the first ones need in the end, when absent.
        kernels: ways of computing passes that can be trusted on the model's device.
    """

    def __init__(self, model: OcrModel, slots: int, max_tokens: int, tokens: int = 0, kernels: Kernels = PLAIN) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._kernels = kernels
        self.slots = slots
        self._tokens = tokens
        self._live: list[_Live[Name]] = []  # in the order of their starts in the cache
        self._cache: PageCache | None = None  # made when the first pages have come
        self._stepper: Stepper | None = None

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
        """Read the prompts of pages, no more than there are free slots, in one pass.

        Args:
            layers: token ids of each page's text layer, to be guessed from; nothing is guessed where they are absent.
            temperatures: of each page's sampling; greedy where they are 0 or absent.

        Returns:
            Those whose answer ends at once.
        """
        start = clock_ms(self._model.device)
        joined = [
            _Live(
                name,
                PageGuard(self._model.end_token_ids, self._max_tokens, self._model.repeatable_token_ids),
                Drafter(layers[index] if layers else ()),
                len(prompt.embeddings),
                len(prompt.embeddings),
                prompt.next_position,
                Sampler(temperatures[index]) if temperatures and temperatures[index] else None,
            )
            for index, (name, prompt) in enumerate(prompts)
        ]
        said = self._prefilled(joined, [prompt for _, prompt in prompts])
        spoken = [_spoken(said, row, 1, page.sampler) for row, page in enumerate(joined)]
        share = (clock_ms(self._model.device) - start) / len(prompts)
        for page in joined:
            page.prefill_ms = share
        outcomes = [(page, page.take(*first)) for page, first in zip(joined, spoken, strict=True)]
        for page in joined:
            page.drafter.learn(page.ids, 0, 0)
        return self._leave(outcomes)

    def _prefilled(self, pages: Sequence[_Live[Name]], prompts: Sequence[PromptEmbeddings]) -> Said:
        """Read the prompts of ``pages``, packed end to end, into the cache; on success the pages are live."""
        model, lengths = self._model, [page.length for page in pages]
        cache = self._cache or self._made(max(lengths))
        before = cache.capacity if isinstance(cache, SlotCache) else 0
        admitted: list[_Live[Name]] = []
        try:
            for page in pages:
                cache.admit(page, page.length + SPARE, page.length + self._max_tokens + SPARE)
                admitted.append(page)
            moved = isinstance(cache, SlotCache) and cache.capacity > before
            if self._stepper is None or moved:  # what has been captured knows where the slots are
                self._stepper = Stepper(model, cache, self.slots, len(prompts[0].positions), self._kernels)
            logits = self._read(cache, pages, prompts)
        except Exception:
            for page in admitted:
                cache.release(page)  # what has been written of pages that do not join could be NaN
            raise
        self._live += pages
        found = likeliest(logits[0]).cpu().numpy()
        return Said(found[0].astype(np.int64)[:, None], found[1][:, None], logits[0][:, None])

    def _read(self, cache: PageCache, pages: Sequence[_Live[Name]], prompts: Sequence[PromptEmbeddings]) -> Tensor:
        """Logits [1, B, V] behind each prompt."""
        model, lengths = self._model, [page.length for page in pages]
        starts = np.repeat([cache.start(page) for page in pages], lengths)
        where = torch.from_numpy(np.stack([starts, np.concatenate([np.arange(length) for length in lengths])]))
        cache.write(*where.to(model.device, non_blocking=True), alone=True)
        attention = pack(lengths, model.device, fused=self._kernels.fused)
        embeddings = torch.cat([prompt.embeddings for prompt in prompts])[None]
        positions = torch.cat([prompt.positions for prompt in prompts], dim=1)[:, None]
        last = attention.starts[1:].long() - 1
        logits, _ = model.decoder(embeddings, positions, None, cache, last, attention)
        return logits

    def _made(self, longest: int) -> PageCache:
        """The cache, for pages whose prompts are at most the ``longest`` where it is not told how much there is."""
        tokens = self._tokens or self.slots * (longest + self._max_tokens + SPARE + STEP)
        self._cache = PooledCache(tokens) if self._kernels.fused else SlotCache(self.slots, tokens // self.slots)
        return self._cache

    def admissible(self, lengths: Sequence[int]) -> int:
        """How many of the first prompts of these ``lengths`` there is room for now."""
        cache = self._cache or self._made(max(lengths))
        most = self.slots - len(self._live)
        return cache.admissible([length + ROOM for length in lengths[:most]])

    @torch.inference_mode()
    def step(self, *, guess: bool = True) -> list[tuple[Name, Decoded | None]]:
        """One token more of every page, or several where guesses are right.

        Returns:
            Pages that end with it, and pages that were let go, unfinished, as the cache had no room for all.
        """
        gone: list[tuple[Name, Decoded | None]] = [(name, None) for name in self._make_room()]
        model, live = self._model, self._live
        assert self._stepper is not None, "pages have joined before"
        assert self._cache is not None
        if live[0].full:
            return [*gone, *self._leave([(live[0], "length")])]
        start = clock_ms(model.device)
        # a guess is checked against the one token that is greedy: there is none where tokens are drawn
        guesses = [page.drafter.guess(page.ids) if guess and page.sampler is None else [] for page in live]
        width = 1 + max(map(len, guesses))
        given = np.zeros((len(live), TOKENS + width), dtype=np.int64)
        for row, (page, guessed) in enumerate(zip(live, guesses, strict=True)):
            begin = self._cache.start(page)
            known = begin, page.length, page.next_position, page.prompt_length, page.ids[-1], *guessed
            given[row, : len(known)] = known
        said = self._stepper(given)
        spoken = [_spoken(said, row, width, page.sampler) for row, page in enumerate(live)]
        share = (clock_ms(model.device) - start) / len(live)
        outcomes = []
        for page, guessed, (tokens, log_probabilities) in zip(live, guesses, spoken, strict=True):
            agreed = _agreement(guessed, tokens)
            page.length += agreed + 1
            page.next_position += agreed + 1
            page.steps += 1
            page.drafted += len(guessed)
            page.decode_ms += share
            before = len(page.ids)
            reason = page.take(tokens[: agreed + 1], log_probabilities[: agreed + 1])
            page.accepted += len(page.ids) - before - 1  # what follows an end is no part of the answer
            page.drafter.learn(page.ids, len(guessed), agreed)
            outcomes.append((page, reason))
        return [*gone, *self._leave(outcomes)]

    @torch.inference_mode()
    def drop(self, names: Sequence[Name]) -> None:
        """Let pages go, unfinished; those that have no slot are passed over."""
        for page in [page for page in self._live if page.name in names]:
            self._vacate(page)

    def _make_room(self) -> list[Name]:
        """Room for the next step of every page; those with the shortest answers so far are let go for it, and named."""
        cache, gone = self._cache, list[Name]()
        assert cache is not None, "pages have joined before"
        for page in list(self._live):
            while page in self._live and not cache.grow(page, page.length + SPARE):
                if len(self._live) == 1:
                    page.full = True  # longer than all there is: its answer ends here
                    return gone
                least = min(self._live, key=lambda other: len(other.ids))
                gone.append(least.name)
                self._vacate(least)
        return gone

    def _leave(self, outcomes: Sequence[tuple[_Live[Name], FinishReason | None]]) -> list[tuple[Name, Decoded]]:
        """Take out the pages that have ended."""
        left = []
        for page, reason in outcomes:
            if reason is None:
                continue
            left.append(page.ended(reason))
            self._vacate(page)
        return left

    def _vacate(self, page: _Live[Name]) -> None:
        """Take a page out of the cache."""
        assert self._cache is not None, "pages have joined before"
        self._live.remove(page)
        self._cache.release(page)
        self._live.sort(key=self._cache.start)


def decode(
    model: OcrModel,
    prompts: Sequence[PromptEmbeddings],
    max_tokens: int,
    layers: Sequence[Sequence[int]] = (),
    temperatures: Sequence[float] = (),
    *,
    guess: bool = True,
    kernels: Kernels = PLAIN,
) -> list[Decoded]:
    """Answers to the prompts, in their order, decoded all together; see `Decoding`."""
    if not prompts:
        return []
    decoding: Decoding[int] = Decoding(model, len(prompts), max_tokens, kernels=kernels)
    found = dict(decoding.join(list(enumerate(prompts)), layers, temperatures))
    while decoding.names:
        found |= {name: ended for name, ended in decoding.step(guess=guess) if ended}
    return [found[index] for index in range(len(prompts))]


def clock_ms(device: torch.device) -> float:
    """Time in milliseconds at which all work given to ``device`` so far is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() * 1000.0


def _spoken(said: Said, row: int, width: int, sampler: Sampler | None) -> tuple[list[int], list[float]]:
    """What the decoder said after each of a page's ``width`` tokens, and its log-probability."""
    if sampler is None:
        return said.tokens[row, :width].tolist(), said.log_probabilities[row, :width].tolist()
    token, log_probability = sampler.draw(said.logits[row, 0])
    return [token], [log_probability]


def _agreement(guessed: Sequence[int], said: Sequence[int]) -> int:
    """How many of the tokens ``guessed`` the decoder has said as well before it said another."""
    for count, (token, own) in enumerate(zip(guessed, said, strict=False)):
        if token != own:
            return count
    return len(guessed)
