"""Pictures of pages in, results out, on one device."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from rtprune.engine.budget import affordable
from rtprune.engine.confidence import confidence
from rtprune.engine.decoding import Decoded, clock_ms
from rtprune.engine.fidelity import Audit, normalised_distance
from rtprune.engine.kernels import kernels_of
from rtprune.engine.ladder import Strategy, ladder
from rtprune.engine.prepare import Page, PlainPage, PreparedPage, prepared
from rtprune.engine.prompts import assemble_prompt
from rtprune.engine.reading import MemoryFull, Outcomes, Reading, ReadyPage, alone, together
from rtprune.engine.result import FinishReason, PageResult, PageStatus, Timings
from rtprune.engine.scheduler import Scheduler
from rtprune.errors import UsageError
from rtprune.models.protocol import OcrModel, Views
from rtprune.pruning import METHODS, Cues, PruneConfig, Pruned, prune_batch
from rtprune.settings import SLOTS, ReadSettings

_log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)

_STATUS: dict[FinishReason, PageStatus] = {"eos": "ok", "length": "truncated", "loop": "loop"}


@dataclass(frozen=True, eq=False)
class _Encoded:
    strategy: Strategy
    page: PreparedPage
    features: Tensor  # [L, D]
    encode_ms: float


@dataclass(eq=False)
class _Held:
    """A page on its way: the strategy of the ladder it is on, those above, and what the first one gave."""

    page: Page
    strategy: Strategy
    higher: tuple[Strategy, ...]
    first: PageResult | None = None
    audited: PageResult | None = None  # what is given in the end, while the page is read unpruned beside it


class _Source(Generic[Name]):
    """Pages as they become ready."""

    def __init__(self, pages: Iterable[tuple[Name, Page] | None]) -> None:
        self._pages = iter(pages)
        self.ended = False

    def take(self) -> tuple[Name, Page] | None:
        """The next page; ``None`` where none is ready, or none will be."""
        try:
            return None if self.ended else next(self._pages)
        except StopIteration:
            self.ended = True
            return None


class Engine:
    """Reads pages with one model, as many together as it is given. Threads may share nothing of it but `prepare`.

    Args:
        model: a loaded model.
        settings: mode, task, pruning and token limit; the model's defaults where mode and task are absent.
        pruning: how to prune in every detail, instead of what ``settings.prune`` says: for comparing methods.
        slots: pages decoded together, at most; fewer where memory does not hold so many. As many as the kind of device
            is good for, when absent.
        guess: whether the decoder is given guesses to check, from text layers and from what was read so far; they
            change its speed, never its answer.

    Raises:
        UsageError: the model does not have that mode or task.
    """

    def __init__(
        self,
        model: OcrModel,
        settings: ReadSettings,
        pruning: PruneConfig | None = None,
        *,
        slots: int | None = None,
        guess: bool = True,
    ) -> None:
        self.model = model
        self.mode = _one_of("mode", settings.mode or model.default_mode, model.modes, model.name)
        self.task = _one_of("task", settings.task or model.default_task, model.tasks, model.name)
        if slots is None:
            slots = SLOTS.get(model.device.type, SLOTS["cpu"])
        if slots < 1:
            raise UsageError(f"slots must be at least 1, got {slots}")
        self._kernels = kernels_of(model)
        budget = affordable(model, slots, settings.max_output_tokens, self._kernels)
        self._slots, self._cache_tokens = budget.slots, budget.tokens
        self._guess = guess
        self._max_output_tokens = settings.max_output_tokens
        # a ratio of nothing keeps every token as it is
        self._pruning = pruning or PruneConfig(ratio=0.0 if settings.prune == "off" else settings.prune)
        self._reread = settings.reread

    def read(self, pictures: Sequence[Image], text_layers: Sequence[str] = ()) -> list[PageResult]:
        """Read pages; results in the order of the pictures. See `stream`.

        Args:
            pictures: of 8 bits a channel, opaque; see ``rtprune.documents`` for what makes such of any file.
            text_layers: what each page says of itself, where pages do.
        """
        layers = text_layers or [""] * len(pictures)
        pages = [PlainPage(picture, layer) for picture, layer in zip(pictures, layers, strict=True)]
        found = dict(self.stream(enumerate(pages)))
        return [found[index] for index in range(len(pictures))]

    def stream(
        self, pages: Iterable[tuple[Name, Page] | None], audited: Callable[[Name], bool] = lambda name: False
    ) -> Iterator[tuple[Name, PageResult]]:
        """Read pages as slots become free for them; each result is given as soon as there is one.

        A page that ends in a loop or fails is read again, see ``rtprune.engine.ladder``, unless the settings say
        otherwise. One that cannot be read is a result with status "failed", never an exception, and the others are read
        all the same. In float32 a page's text does not depend on the pages beside it, nor on the text layer, from which
        tokens are only guessed.

        Args:
            pages: each with a name of its own; taken when there is a slot. ``None`` where
                none is ready yet: pages that are here are read on meanwhile.
            audited: which pages are also read unpruned, to measure how much of their text pruning has changed.

        Raises:
            RTPruneError: the GPU's memory is too small for a page.
            torch.AcceleratorError: the GPU is lost to this process.
        """
        source = _Source(pages)
        held: dict[Name, _Held] = {}
        again: deque[Name] = deque()
        waiting: deque[tuple[Name, ReadyPage]] = deque()
        reading: Reading[Name] = Reading(
            self.model,
            self._slots,
            self._max_output_tokens,
            guess=self._guess,
            tokens=self._cache_tokens,
            kernels=self._kernels,
        )
        scheduler = Scheduler()
        max_live = self._slots + 1
        readied_ms = 0.0  # what was spent on pages that are waiting to join
        while again or waiting or reading.live or not source.ended:
            room, began = reading.room, time.perf_counter()
            if waiting and room:
                joining = min(room, len(waiting))
                outcomes = reading.join([waiting.popleft() for _ in range(joining)])
                scheduler.joined(readied_ms + _ms_since(began), joining)
                readied_ms = 0.0
            elif names := self._next(source, again, held, reading, scheduler, max_live):
                outcomes = Outcomes()
                try:
                    readied = self._readied([held[name] for name in names])
                except MemoryFull:
                    if not reading.live:
                        raise
                    again.extendleft(reversed(names))
                    max_live = reading.live  # so many beside them were too many
                    continue
                for name, page in zip(names, readied, strict=True):
                    if isinstance(page, PageResult):
                        outcomes.ended.append((name, page))
                    else:
                        waiting.append((name, page))
                readied_ms += _ms_since(began)
            elif reading.live:
                outcomes = reading.step()
                scheduler.stepped(_ms_since(began), room)
            else:
                continue  # none is ready yet
            waiting.extend(outcomes.put_off)
            for name, ended in outcomes.ended:
                result = self._settled(held[name], alone(self._result, ended), audited(name))
                if result is None:
                    again.append(name)
                else:
                    del held[name]
                    max_live = min(max_live + 1, self._slots + 1)
                    yield name, result

    def _next(
        self,
        source: _Source[Name],
        again: deque[Name],
        held: dict[Name, _Held],
        reading: Reading[Name],
        scheduler: Scheduler,
        max_live: int,
    ) -> list[Name]:
        """Pages to begin with, as many as are ready and there is room for; none while it is not worth a prefill."""
        if reading.live >= max_live or not scheduler.may_join(reading.room, reading.live):
            return []
        names = [again.popleft() for _ in range(min(reading.room, len(again)))]
        while len(names) < reading.room and (found := source.take()) is not None:
            name, page = found
            if name in held:
                raise UsageError(f"two pages are called {name!r}", "give each a name of its own")
            strategy, *higher = ladder(self.model, self.mode, self._pruning)
            held[name] = _Held(page, strategy, tuple(higher) if self._reread else ())
            names.append(name)
        return names

    def prepare(self, page: Page) -> Page:
        """``page`` with its views made, so that `stream` need not: another thread does this while the device reads.

        A page that cannot be prepared is given back as it is; what is wrong with it is then said by `stream`.
        """
        try:
            return prepared(self.model, page, self.mode)
        except Exception as error:  # whatever one page brings about
            _log.debug("a page could not be prepared ahead: %s", error)
            return page

    def stop_pruning(self) -> None:
        """Keep every token from the next page on."""
        self._pruning = replace(self._pruning, ratio=0.0)

    def _settled(self, page: _Held, result: PageResult, audited: bool) -> PageResult | None:
        """What to give for a page that has been read; ``None`` to read it once more, on ``page.strategy``."""
        if page.audited is not None:
            return self._compared(page.audited, result)
        if page.first is None or (page.first.status == "failed" and result.status != "failed"):
            page.first = result
        well = result.status in ("ok", "empty")
        if page.first.status in ("loop", "failed") and not well and page.higher:
            page.strategy, *higher = page.higher
            page.higher = tuple(higher)
            return None
        # where no strategy helped, what was asked for is what is given, or the first that gave anything
        final = result if well else page.first
        if audited and final.strategy == "default" and final.facts and final.facts.free_after < final.facts.free_before:
            page.audited = final
            page.strategy = Strategy("unpruned", self.mode, replace(self._pruning, ratio=0.0))
            return None
        return final

    def _compared(self, pruned: PageResult, whole: PageResult) -> PageResult:
        """The pruned result with its distance to the unpruned one, unless this was read in a loop or not at all."""
        if whole.status in ("loop", "failed"):
            return pruned
        audit = Audit(normalised_distance(pruned.text, whole.text), whole.output_tokens)
        return replace(pruned, audit=audit)

    @torch.inference_mode()
    def prune_page(self, picture: Image) -> tuple[Views, Tensor, Pruned]:
        """One page's views, its visual tokens [L, D], and what pruning leaves of them; nothing is read.

        Raises:
            DocumentError: the picture cannot be shown to the model.
        """
        views = self.model.prepare(picture, self.mode)
        (features,) = self.model.encode([views])
        (pruned,) = self._pruned([views], [features], self._pruning)
        return views, features, pruned

    def _pruned(self, views: Sequence[Views], features: Sequence[Tensor], pruning: PruneConfig) -> list[Pruned]:
        dynamic = pruning.ratio == "dynamic"
        return prune_batch(
            features,
            [each.layout for each in views],
            [each.to(self.model.device).global_view if dynamic else None for each in views],
            pruning,
            [self._cues(each, pruning) for each in views],
        )

    def _cues(self, views: Views, pruning: PruneConfig) -> Cues:
        """What the method needs beside the features, and no more: to learn it costs time."""
        needs = METHODS[pruning.method].needs
        cues = self.model.attention_cues(views) if "attention" in needs else Cues()
        if "prompt" in needs:
            cues = replace(cues, prompt=self.model.embed(self.model.prompt(self.task).after).float())
        return cues

    @torch.inference_mode()
    def _readied(self, pages: Sequence[_Held]) -> list[ReadyPage | PageResult]:
        """Pages up to their prompts; all of them are encoded together, and pruned together."""
        encoded = together(self._encode, [alone(self._prepare, page) for page in pages])
        return together(self._prune, encoded)

    def _prepare(self, page: _Held) -> tuple[Strategy, PreparedPage]:
        ready = prepared(self.model, page.page, page.strategy.mode)
        page.page = ready.page  # its views are let go once they are encoded
        return page.strategy, ready

    def _encode(self, pages: Sequence[tuple[Strategy, PreparedPage]]) -> list[_Encoded]:
        start = clock_ms(self.model.device)
        # pruning looks at the same pixels: they are uploaded once
        pages = [(way, replace(page, views=page.views.to(self.model.device))) for way, page in pages]
        features = self.model.encode([page.views for _, page in pages])
        share = (clock_ms(self.model.device) - start) / len(pages)
        return [
            _Encoded(strategy, page, found, page.prepare_ms + share)
            for (strategy, page), found in zip(pages, features, strict=True)
        ]

    def _prune(self, pages: Sequence[_Encoded]) -> list[ReadyPage]:
        start = clock_ms(self.model.device)
        pruned: dict[int, Pruned] = {}
        for pruning in dict.fromkeys(page.strategy.pruning for page in pages):
            alike = [index for index, page in enumerate(pages) if page.strategy.pruning == pruning]
            views, features = [pages[index].page.views for index in alike], [pages[index].features for index in alike]
            pruned |= zip(alike, self._pruned(views, features, pruning), strict=True)
        share = (clock_ms(self.model.device) - start) / len(pages)
        return [self._ready(page, pruned[index], share) for index, page in enumerate(pages)]

    def _ready(self, page: _Encoded, pruned: Pruned, prune_ms: float) -> ReadyPage:
        prompt = assemble_prompt(self.model, self.task, page.page.views.layout, pruned)
        return ReadyPage(prompt, page.page.layer, pruned.facts, page.strategy, page.encode_ms, prune_ms)

    def _result(self, page: tuple[ReadyPage, Decoded]) -> PageResult:
        ready, decoded = page
        answer = self.model.parse(self.model.detokenize(decoded.ids))
        ended_blank = decoded.finish_reason == "eos" and not answer.text.strip()
        return PageResult(
            status="empty" if ended_blank else _STATUS[decoded.finish_reason],
            text=answer.text,
            regions=answer.regions,
            finish_reason=decoded.finish_reason,
            facts=ready.facts,
            prompt_tokens=len(ready.prompt.embeddings),
            output_tokens=len(decoded.ids),
            decode_steps=decoded.steps,
            drafted_tokens=decoded.drafted,
            accepted_tokens=decoded.accepted,
            confidence=confidence(
                decoded.log_probabilities, lambda count: len(self._text(decoded.ids[:count])), len(answer.text)
            ),
            timings=Timings(ready.encode_ms, ready.prune_ms, decoded.prefill_ms, decoded.decode_ms),
            mode=ready.strategy.mode,
            strategy=ready.strategy.name,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return self.model.parse(self.model.detokenize(ids)).text


def _one_of(what: str, value: str, valid: tuple[str, ...], model: str) -> str:
    if value not in valid:
        raise UsageError(f"model {model!r} has no {what} {value!r}", f"it has: {', '.join(valid)}")
    return value


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000.0
