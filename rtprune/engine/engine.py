"""Pictures of pages in, results out, on one device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from rtprune.engine.decoding import Decoded, PromptEmbeddings, assemble_prompt, clock_ms, decode
from rtprune.engine.result import FinishReason, PageResult, PageStatus, Timings
from rtprune.errors import DocumentError, RTPruneError, UsageError
from rtprune.models.protocol import OcrModel, Views
from rtprune.pruning import METHODS, Cues, PruneConfig, Pruned, PruneFacts, prune
from rtprune.settings import ReadSettings

_log = logging.getLogger(__name__)

Given = TypeVar("Given")
Found = TypeVar("Found")

_STATUS: dict[FinishReason, PageStatus] = {"eos": "ok", "length": "truncated", "loop": "loop"}


@dataclass(frozen=True, eq=False)
class _Prepared:
    views: Views
    prepare_ms: float


@dataclass(frozen=True, eq=False)
class _Encoded:
    views: Views
    features: Tensor  # [L, D]
    encode_ms: float


@dataclass(frozen=True, eq=False)
class _Ready:
    prompt: PromptEmbeddings
    facts: PruneFacts
    encode_ms: float
    prune_ms: float


@dataclass(frozen=True, eq=False)
class _Answered:
    ready: _Ready
    decoded: Decoded


class Engine:
    """Reads pages with one model, as many together as it is given. Not to be shared by threads.

    Args:
        model: a loaded model.
        settings: mode, task, pruning and token limit; the model's defaults where mode and task are absent.
        pruning: how to prune in every detail, instead of what ``settings.prune`` says: for comparing methods.

    Raises:
        UsageError: the model does not have that mode or task.
    """

    def __init__(self, model: OcrModel, settings: ReadSettings, pruning: PruneConfig | None = None) -> None:
        self.model = model
        self.mode = _one_of("mode", settings.mode or model.default_mode, model.modes, model.name)
        self.task = _one_of("task", settings.task or model.default_task, model.tasks, model.name)
        self._max_output_tokens = settings.max_output_tokens
        # a ratio of nothing keeps every token as it is
        self._pruning = pruning or PruneConfig(ratio=0.0 if settings.prune == "off" else settings.prune)

    @torch.inference_mode()
    def read(self, pictures: Sequence[Image]) -> list[PageResult]:
        """Read pages as one batch; results in the order of the pictures.

        A page that cannot be read is a result with status "failed", never an exception, and the others are read all
        the same. In float32 a page's text does not depend on the pages beside it.

        Args:
            pictures: pages of 8 bits a channel, opaque; see ``rtprune.documents`` for what makes such of any file.

        Raises:
            RTPruneError: the GPU's memory is too small for a page.
            torch.AcceleratorError: the GPU is lost to this process.
        """
        prepared = [_alone(self._prepare, picture) for picture in pictures]
        encoded = _together(self._encode, prepared)
        ready = [_alone(self._prune, page) for page in encoded]
        answered = _together(self._decode, ready)
        return [_alone(self._result, page) for page in answered]

    @torch.inference_mode()
    def prune_page(self, picture: Image) -> tuple[Views, Tensor, Pruned]:
        """One page's views, its visual tokens [L, D], and what pruning leaves of them; nothing is read.

        Raises:
            DocumentError: the picture cannot be shown to the model.
        """
        views = self.model.prepare(picture, self.mode)
        (features,) = self.model.encode([views])
        return views, features, self._pruned(views, features)

    def _pruned(self, views: Views, features: Tensor) -> Pruned:
        view = views.global_view.to(self.model.device) if self._pruning.ratio == "dynamic" else None
        return prune(features, views.layout, view, self._pruning, self._cues(views))

    def _cues(self, views: Views) -> Cues:
        """What the method needs beside the features, and no more: to learn it costs time."""
        needs = METHODS[self._pruning.method].needs
        cues = self.model.attention_cues(views) if "attention" in needs else Cues()
        if "prompt" in needs:
            cues = replace(cues, prompt=self.model.embed(self.model.prompt(self.task).after).float())
        return cues

    def _prepare(self, picture: Image) -> _Prepared:
        start = clock_ms(self.model.device)
        views = self.model.prepare(picture, self.mode)
        if views.layout.free_count == 0:
            raise DocumentError("no-visual-tokens", "the picture gives no visual tokens: there is nothing to read")
        return _Prepared(views, clock_ms(self.model.device) - start)

    def _encode(self, pages: Sequence[_Prepared]) -> list[_Encoded]:
        start = clock_ms(self.model.device)
        features = self.model.encode([page.views for page in pages])
        share = (clock_ms(self.model.device) - start) / len(pages)
        return [
            _Encoded(page.views, found, page.prepare_ms + share) for page, found in zip(pages, features, strict=True)
        ]

    def _prune(self, page: _Encoded) -> _Ready:
        start = clock_ms(self.model.device)
        pruned = self._pruned(page.views, page.features)
        prune_ms = clock_ms(self.model.device) - start
        prompt = assemble_prompt(self.model, self.task, page.views.layout, pruned)
        return _Ready(prompt, pruned.facts, page.encode_ms, prune_ms)

    def _decode(self, pages: Sequence[_Ready]) -> list[_Answered]:
        found = decode(self.model, [page.prompt for page in pages], self._max_output_tokens)
        return [_Answered(page, decoded) for page, decoded in zip(pages, found, strict=True)]

    def _result(self, page: _Answered) -> PageResult:
        ready, decoded = page.ready, page.decoded
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
            timings=Timings(ready.encode_ms, ready.prune_ms, decoded.prefill_ms, decoded.decode_ms),
        )


def _alone(step: Callable[[Given], Found], page: Given | PageResult) -> Found | PageResult:
    """One page through one step. A page that failed earlier passes by; one that fails now becomes a failed result."""
    if isinstance(page, PageResult):
        return page
    try:
        return step(page)
    except torch.AcceleratorError:
        raise  # the device itself is lost, for every page to come: only a new process can go on
    except torch.OutOfMemoryError as error:  # views and answers are bounded: what one page needs, others need too
        raise RTPruneError(
            f"the GPU's memory is too small to read even one page: {str(error).split('. ')[0]}",
            "take a smaller --mode, fewer --workers on it, or end what else uses it",
        ) from error
    except Exception as error:  # whatever one page brings about must not reach the others
        kind = error.kind if isinstance(error, DocumentError) else type(error).__name__
        return PageResult("failed", error_type=kind, error_message=str(error) or kind)


def _together(
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
    return [_alone(lambda page: step([page])[0], page) for page in pages]


def _one_of(what: str, value: str, valid: tuple[str, ...], model: str) -> str:
    if value not in valid:
        raise UsageError(f"model {model!r} has no {what} {value!r}", f"it has: {', '.join(valid)}")
    return value
