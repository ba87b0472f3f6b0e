"""Decoding that outlives a bad page and a full GPU: whose fault it was is found out, and the others are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from rtprune.engine.decoding import Decoded, Decoding, PromptEmbeddings, decode
from rtprune.engine.ladder import Strategy
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
    full, half as many pages are decoded together from then on, and those that were begin again later.

    Args:
        slots: pages decoded together, at most.
        guess: whether tokens are guessed from text layers and what was read so far.
    """

    def __init__(self, model: OcrModel, slots: int, max_tokens: int, *, guess: bool = True) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._guess = guess
        self._slots = slots
        self._decoding: Decoding[Name] = Decoding(model, slots, max_tokens)
        self._pages: dict[Name, ReadyPage] = {}

    @property
    def slots(self) -> int:
        """How many pages are decoded together, at most, as far as is known now."""
        return self._slots

    @property
    def room(self) -> int:
        """How many pages may join."""
        return self._slots - len(self._pages)

    @property
    def live(self) -> int:
        """How many pages are being decoded."""
        return len(self._pages)

    def join(self, pages: Sequence[tuple[Name, ReadyPage]]) -> Outcomes[Name]:
        """Take pages in, at most as many as there is room for."""
        if not pages:
            return Outcomes()
        prompts = [(name, page.prompt) for name, page in pages]
        layers = [page.layer if self._guess else () for _, page in pages]
        temperatures = [page.strategy.temperature for _, page in pages]
        self._pages |= dict(pages)
        return self._safely(lambda: self._decoding.join(prompts, layers, temperatures), [name for name, _ in pages])

    def step(self) -> Outcomes[Name]:
        """One pass over all pages."""
        return self._safely(lambda: self._decoding.step(guess=self._guess), list(self._pages))

    def _safely(self, act: Callable[[], list[tuple[Name, Decoded]]], concerned: list[Name]) -> Outcomes[Name]:
        try:
            return Outcomes([(name, (self._pages.pop(name), decoded)) for name, decoded in act()])
        except torch.AcceleratorError:
            raise  # the device itself is lost, for every page to come: only a new process can go on
        except Exception as error:  # whatever one page brings about must not reach the others
            fault = error.with_traceback(None)  # its frames hold the memory of the pass
        if isinstance(fault, torch.OutOfMemoryError):
            return self._smaller(fault)
        _log.warning("%d pages failed together (%s): they go on one by one", len(concerned), fault)
        suspects = [(name, self._pages.pop(name)) for name in concerned]
        if not self._pages:
            self._start_anew()
        outcomes: Outcomes[Name] = Outcomes()
        for name, page in suspects:
            try:
                outcomes.ended.append((name, alone(self._decode_alone, page)))
            except MemoryFull:
                if not self._pages:
                    raise
                outcomes.put_off.append((name, page))  # there is room once the pages beside it have ended
        return outcomes

    def _smaller(self, error: torch.OutOfMemoryError) -> Outcomes[Name]:
        """Make room by letting all pages go, and take half as many from now on."""
        if self._slots == 1:
            raise no_memory(error) from error
        self._slots = max(1, min(self._slots, len(self._pages)) // 2)
        _log.warning("memory is full with %d pages: from now on %d are decoded together", len(self._pages), self._slots)
        waiting = list(self._pages.items())
        self._pages.clear()
        self._start_anew()
        return Outcomes(put_off=waiting)

    def _start_anew(self) -> None:
        self._decoding = Decoding(self._model, self._slots, self._max_tokens)

    def _decode_alone(self, page: ReadyPage) -> tuple[ReadyPage, Decoded]:
        heat = [page.strategy.temperature]
        return page, decode(self._model, [page.prompt], self._max_tokens, [page.layer], heat, guess=self._guess)[0]


def alone(step: Callable[[Given], Found], page: Given | PageResult) -> Found | PageResult:
    """One page through one step. A page that failed earlier passes by; one that fails now becomes a failed result.

    Raises:
        MemoryFull: there is no memory for it, which is not the page's fault.
    """
    if isinstance(page, PageResult):
        return page
    try:
        return step(page)
    except torch.AcceleratorError:
        raise
    except torch.OutOfMemoryError as error:
        raise no_memory(error) from error
    except Exception as error:
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
        except torch.AcceleratorError:
            raise
        except Exception as error:
            _log.warning("a batch of %d pages failed (%s): they go on one by one", len(well), error)
    return [alone(lambda page: step([page])[0], page) for page in pages]


def no_memory(error: torch.OutOfMemoryError) -> MemoryFull:
    """What to say where not even one page fits."""
    return MemoryFull(
        f"the GPU's memory is too small to read even one page: {str(error).split('. ')[0]}",
        "take a smaller --mode, fewer --workers on it, or end what else uses it",
    )
