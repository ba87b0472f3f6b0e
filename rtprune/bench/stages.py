"""What single stages of the engine cost with every slot taken: prefill with pruning, and a decode step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.unlimited_ocr.modeling_unlimited_ocr import UnlimitedOcrTextTopkRouter

from rtprune.bench.arithmetic import Arithmetic
from rtprune.bench.prune import WARM_UP, Milliseconds, measured
from rtprune.engine.decoding import Decoding, clock_ms
from rtprune.engine.kernels import kernels_of
from rtprune.engine.prompts import PromptEmbeddings, assemble_prompt
from rtprune.models.protocol import OcrModel, Views
from rtprune.pruning import PruneConfig, Pruned, prune_batch

STEPS = 24  # decode steps that are timed, at most
_COPIED = {"cuda": 2**30, "cpu": 2**28}  # bytes, far beyond what caches hold
_COPIES = 10


@dataclass(frozen=True)
class PrefillCost:
    """Prefill of a full batch, what it costs one page of it.

    Attributes:
        pages: in the batch.
        tokens_unpruned: length of a visual sequence, mean.
        tokens_pruned: after dynamic pruning, mean.
        unpruned: of visual tokens as they are, up to the first token.
        pruned: the same with pruning first.
        prune: of pruning itself, all pages together as the engine does it.
        gain: unpruned / pruned, medians.
    """

    pages: int
    tokens_unpruned: float
    tokens_pruned: float
    unpruned: Milliseconds
    pruned: Milliseconds
    prune: Milliseconds
    gain: float


@dataclass(frozen=True)
class StepCost:
    """One decode step of a full batch, a token of every page.

    Attributes:
        pages: that were decoded together.
        tokens_held: prompt and answer of a page at the middle of the measurement, mean.
        step: of all pages together.
        read_mb: what the step cannot but read, millions of bytes; absent where the model's arithmetic is not known.
        bound_ms: read_mb at the device's memory bandwidth.
        over_bound: step / bound_ms, median.
        experts_expected: different experts of a layer that read_mb supposes.
        experts_touched: that one step did touch, mean over the layers; absent where pages had ended by then.
    """

    pages: int
    tokens_held: float
    step: Milliseconds
    read_mb: float | None = None
    bound_ms: float | None = None
    over_bound: float | None = None
    experts_expected: float | None = None
    experts_touched: float | None = None


class Batch:
    """Encoded pages, as many as there are slots; they come again where there are fewer.

    Args:
        views: of the pages.
        features: visual tokens of each.
    """

    def __init__(self, model: OcrModel, task: str, views: Sequence[Views], features: Sequence[Tensor], slots: int):
        self._model = model
        self._task = task
        self._pages = [(views[index % len(views)], features[index % len(views)]) for index in range(slots)]

    @torch.inference_mode()
    def prefill(self, repeats: int) -> PrefillCost:
        """Prefill of all pages, unpruned and pruned dynamically."""
        device, count = self._model.device, len(self._pages)
        whole, pruned = self._pruned(PruneConfig(ratio=0.0)), self._pruned(PruneConfig())
        decoding: Decoding[int] = Decoding(self._model, count, max_tokens=2, kernels=kernels_of(self._model))

        def join(pages: Sequence[Pruned]) -> None:
            decoding.drop(decoding.names)
            decoding.join(list(enumerate(self._prompts(pages))))

        unpruned = _of_one(measured(lambda: join(whole), repeats, device), count)
        both = _of_one(measured(lambda: join(self._pruned(PruneConfig())), repeats, device), count)
        alone = _of_one(measured(lambda: self._pruned(PruneConfig()), repeats, device), count)
        return PrefillCost(
            count,
            round(statistics.mean(page.facts.tokens_before for page in pruned), 1),
            round(statistics.mean(page.facts.tokens_after for page in pruned), 1),
            unpruned,
            both,
            alone,
            round(unpruned.median / both.median, 3),
        )

    @torch.inference_mode()
    def step(
        self, pruning: PruneConfig, most: int, arithmetic: Arithmetic | None, bandwidth_gb_s: float
    ) -> StepCost | None:
        """Decode steps right after the prefill, up to ``most``; ``None`` where pages ended before any was timed."""
        model, prompts = self._model, self._prompts(self._pruned(pruning))
        decoding: Decoding[int] = Decoding(model, len(prompts), max_tokens=most + 2, kernels=kernels_of(model))
        decoding.join(list(enumerate(prompts)))
        pages = decoding.names
        times: list[float] = []
        while pages and len(times) < WARM_UP + STEPS:
            begin = clock_ms(model.device)
            decoding.step(guess=False)
            spent = clock_ms(model.device) - begin
            if decoding.names != pages:
                break  # the step that a page ends with does more
            times.append(spent)
        timed = times[WARM_UP:]
        if not timed:
            return None
        lengths = [len(prompts[page].embeddings) + WARM_UP + len(timed) / 2 for page in pages]
        step = _milliseconds(timed)
        cost = StepCost(len(pages), round(statistics.mean(lengths), 1), step)
        if arithmetic is None:
            return cost
        read = arithmetic.step_bytes(lengths)
        bound_ms = read / bandwidth_gb_s / 1e6
        touched = _experts_touched(model, lambda: decoding.step(guess=False)) if decoding.names == pages else None
        return replace(
            cost,
            read_mb=round(read / 1e6, 3),
            bound_ms=round(bound_ms, 4),
            over_bound=round(step.median / bound_ms, 2),
            experts_expected=round(arithmetic.experts(len(pages)), 1),
            experts_touched=touched,
        )

    def _pruned(self, pruning: PruneConfig) -> list[Pruned]:
        needed = [views.to(self._model.device).global_view for views, _ in self._pages]
        return prune_batch(
            [features for _, features in self._pages],
            [views.layout for views, _ in self._pages],
            needed if pruning.ratio == "dynamic" else None,
            pruning,
        )

    def _prompts(self, pages: Sequence[Pruned]) -> list[PromptEmbeddings]:
        return [
            assemble_prompt(self._model, self._task, views.layout, pruned)
            for (views, _), pruned in zip(self._pages, pages, strict=True)
        ]


def _experts_touched(model: Any, step: Callable[[], object]) -> float:
    found: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: found.append(len(output[2].unique())))
        for module in model.network.modules()
        if isinstance(module, UnlimitedOcrTextTopkRouter)
    ]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    return round(statistics.mean(found), 1)


def copy_bandwidth_gb_s(device: torch.device) -> float:
    """Memory bandwidth as a large copy on ``device`` has it, bytes read and written, 10^9 a second; the best of ten."""
    source = torch.ones(_COPIED["cuda" if device.type == "cuda" else "cpu"], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = measured(lambda: target.copy_(source), _COPIES, device)
    return round(2 * source.numel() / found.min / 1e6, 1)


def _of_one(found: Milliseconds, count: int) -> Milliseconds:
    return Milliseconds(*(round(value / count, 3) for value in (found.min, found.median, found.max)))


def _milliseconds(times: Sequence[float]) -> Milliseconds:
    return Milliseconds(*(round(value, 3) for value in (min(times), statistics.median(times), max(times))))
