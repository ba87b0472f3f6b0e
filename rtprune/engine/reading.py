"""Decoding that outlives a bad page and a full GPU: whose fault it was is found out, and the others are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rtprune.engine.decoding import Decoded, Decoding, decode
from rtprune.engine.faults import fault_of
from rtprune.engine.kernels import PLAIN, Kernels
from rtprune.engine.ladder import Strategy
from rtprune.engine.prompts import PromptEmbeddings
from rtprune.engine.result import PageResult
from rtprune.errors import DocumentError, Reason, RTPruneError, unexpected
from rtprune.models.protocol import OcrModel
from rtprune.pruning import PruneFacts

_log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)
Given = TypeVar("Given")
Found = TypeVar("Found")


class MemoryFull(RTPruneError):
    """The device has no memory for one page more; alone, or once others have ended, it may fit."""


@dataclass(frozen=True, eq=False)
class ReadyPage:
    """A page up to its prompt.

    Attributes:
        prompt: its pruned visual tokens and the task.
        layer: token ids of its text layer.
        facts: what pruning did.
        strategy: the way in which it is read.
        encode_ms: picture to views to visual tokens.
        prune_ms: visual tokens to pruned ones.
    """

    prompt: PromptEmbeddings
    layer: tuple[int, ...]
    facts: PruneFacts
    strategy: Strategy
    encode_ms: float
    prune_ms: float


@dataclass(frozen=True, eq=False)
class Outcomes(Generic[Name]):
    """What came of a pass: pages that have ended, well or not, and pages that must wait for room."""

    ended: list[tuple[Name, tuple[ReadyPage, Decoded] | PageResult]] = field(default_factory=list)
    put_off: list[tuple[Name, ReadyPage]] = field(default_factory=list)


class Reading(Generic[Name]):
    """A `Decoding` whose passes never fail for a page's sake.

    Where a pass fails, its pages are decoded one by one, and the one that fails again is a failed page. Where memory is
    full, some pages begin again later and fewer are decoded together; once as many have ended well, twice as many are.

    Args:
        slots: pages decoded together, at most.
        guess: whether tokens are guessed from text layers and what was read so far.
        tokens: that the cache holds over all pages.
        kernels: ways of computing passes that can be trusted on the model's device.
    """

    def __init__(
        self,
        model: OcrModel,
        slots: int,
        max_tokens: int,
        *,
        guess: bool = True,
        tokens: int = 0,
        kernels: Kernels = PLAIN,
    ) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._guess = guess
        self._tokens = tokens
        self._kernels = kernels
        self._slots = slots
        self._crowded = False  # whether the cache had no room for the page that was to join last
        self._limit = slots  # as far as memory has been found to reach
        self._ended = 0  # since the limit was last changed
        self._pages: dict[Name, ReadyPage] = {}
        self._start_anew(slots)

    @property
    def slots(self) -> int:
        """How many pages are decoded together, at most, as far as is known now."""
        return self._limit

    @property
    def room(self) -> int:
        """How many pages may join."""
        return 0 if self._crowded and self._pages else max(0, self._limit - len(self._pages))

    @property
    def live(self) -> int:
        """How many pages are being decoded."""
        return len(self._pages)

    def join(self, pages: Sequence[tuple[Name, ReadyPage]]) -> Outcomes[Name]:
        """Take pages in, at most as many as there is room for; those that the cache has no room for are put off."""
        fitting = self._decoding.admissible([len(page.prompt.embeddings) for _, page in pages]) if pages else 0
        if pages and not self._pages:
            fitting = max(1, fitting)  # it will not have more
        pages, late = pages[:fitting], list(pages[fitting:])
        self._crowded = bool(late)
        if not pages:
            return Outcomes(put_off=late)
        prompts = [(name, page.prompt) for name, page in pages]
        layers = [page.layer if self._guess else () for _, page in pages]
        temperatures = [page.strategy.temperature for _, page in pages]
        self._pages |= dict(pages)
        names = [name for name, _ in pages]
        outcomes = self._safely(lambda: self._decoding.join(prompts, layers, temperatures), names, joining=True)
        return Outcomes(outcomes.ended, outcomes.put_off + late)

    def step(self) -> Outcomes[Name]:
        """One pass over all pages."""
        outcomes = self._safely(lambda: self._decoding.step(guess=self._guess), list(self._pages), joining=False)
        if outcomes.ended or outcomes.put_off:
            self._crowded = not outcomes.ended  # until a page has ended
        return outcomes

    def _safely(
        self, act: Callable[[], Sequence[tuple[Name, Decoded | None]]], concerned: list[Name], *, joining: bool
    ) -> Outcomes[Name]:
        try:
            found = act()
        except Exception as error:  # whatever one page brings about must not reach the others
            if fault_of(error) == "device":
                raise  # it is lost for every page to come: only a new process can go on
            fault = error.with_traceback(None)  # its frames hold the memory of the pass
        else:
            outcomes: Outcomes[Name] = Outcomes()
            for name, decoded in found:
                page = self._pages.pop(name)
                if decoded is None:
                    outcomes.put_off.append((name, page))
                else:
                    outcomes.ended.append((name, (page, decoded)))
            self._widen(len(outcomes.ended))
            return outcomes
        if fault_of(fault) == "memory":
            return self._smaller(fault, concerned, joining=joining)
        return self._one_by_one(fault, concerned)

    def _one_by_one(self, fault: Exception, concerned: list[Name]) -> Outcomes[Name]:
        _log.warning("%d pages failed together (%s): they go on one by one", len(concerned), fault)
        suspects = self._let_go(concerned)
        outcomes: Outcomes[Name] = Outcomes()
        for name, page in suspects:
            try:
                outcomes.ended.append((name, alone(self._decode_alone, page)))
            except MemoryFull:
                if not self._pages:
                    raise
                outcomes.put_off.append((name, page))  # there is room once the pages beside it have ended
        return outcomes

    def _smaller(self, error: Exception, concerned: list[Name], *, joining: bool) -> Outcomes[Name]:
        """Make room: pages that were to join wait, or half of those that are here; the others are read on."""
        together, slots = len(self._pages), self._decoding.slots
        if together == 1:
            if slots == 1:
                raise no_memory(error) from error
            waiting = self._let_go(concerned)
            self._limit = slots // 2
            self._start_anew(self._limit)  # not even one page beside so many slots
        else:
            self._limit = (together - len(concerned)) or together // 2
            waiting = self._let_go(concerned if joining else concerned[self._limit :])
        self._ended = 0
        _log.warning("memory is full with %d pages: from now on %d are decoded together", together, self._limit)
        return Outcomes(put_off=waiting)

    def _widen(self, ended: int) -> None:
        """Take note of pages that ended well; decode more together once there were as many as the limit."""
        self._ended += ended
        if self._limit < self._decoding.slots and self._ended >= self._limit:
            self._limit, self._ended = min(2 * self._limit, self._decoding.slots), 0

    def _let_go(self, names: list[Name]) -> list[tuple[Name, ReadyPage]]:
        """Take pages out of their slots, unfinished."""
        self._decoding.drop(names)
        return [(name, self._pages.pop(name)) for name in names]

    def _start_anew(self, slots: int) -> None:
        self._decoding: Decoding[Name] = Decoding(
            self._model, slots, self._max_tokens, self._tokens * slots // self._slots, self._kernels
        )

    def _decode_alone(self, page: ReadyPage) -> tuple[ReadyPage, Decoded]:
        heat = [page.strategy.temperature]
        return page, decode(
            self._model, [page.prompt], self._max_tokens, [page.layer], heat, guess=self._guess, kernels=self._kernels
        )[0]


def alone(step: Callable[[Given], Found], page: Given | PageResult) -> Found | PageResult:
    """One page through one step. A page that failed earlier passes by; one that fails now becomes a failed result.

    Raises:
        MemoryFull: there is no memory for it, which is not the page's fault.
    """
    if isinstance(page, PageResult):
        return page
    try:
        return step(page)
    except Exception as error:
        fault = fault_of(error)
        if fault == "device":
            raise
        if fault == "memory":
            raise no_memory(error) from error
        if isinstance(error, DocumentError):
            return PageResult("failed", reason=error.reason, message=str(error))
        return PageResult("failed", reason=Reason.UNEXPECTED, message=unexpected(error))


def together(
    step: Callable[[Sequence[Given]], list[Found]], pages: Sequence[Given | PageResult]
) -> list[Found | PageResult]:
    """All pages that are still well through one step at once; where that fails, each alone to find out whose fault."""
    well = [page for page in pages if not isinstance(page, PageResult)]
    if len(well) > 1:
        try:
            found = iter(step(well))
            return [page if isinstance(page, PageResult) else next(found) for page in pages]
        except Exception as error:
            if fault_of(error) == "device":
                raise
            _log.warning("a batch of %d pages failed (%s): they go on one by one", len(well), error)
    return [alone(lambda page: step([page])[0], page) for page in pages]


def no_memory(error: Exception) -> MemoryFull:
    """What to say where not even one page fits."""
    return MemoryFull(
        f"the GPU's memory is too small to read even one page: {str(error).split('. ')[0]}",
        "take a smaller --mode, fewer --workers on it, or end what else uses it",
    )
