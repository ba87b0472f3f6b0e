"""One pass of the decoder over pages in slots: what it is given in one upload, what it says in one download.

Its shapes depend on how many pages there are and how many tokens of each, and on nothing else. On a GPU both are
rounded up to a few sizes, and each pair of them is captured as a CUDA graph when it first occurs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtprune.engine.cache import PageCache, SlotCache
from rtprune.engine.faults import fault_of
from rtprune.engine.kernels import Kernels
from rtprune.models.attention import slotted
from rtprune.models.protocol import OcrModel

_log = logging.getLogger(__name__)

START, LENGTH, POSITION, PROMPT, TOKENS = range(5)  # columns of what a step is given
WIDTHS = (1, 4, 8, 16)  # tokens of a page in one step, on a GPU
_REACH = 512  # tokens by which the reach of a captured step grows
_NEAR = 0.05  # nats by which a captured step's log-probabilities may differ from an eager one's

_Shape = tuple[int, int, int | None]  # of what a step is given, and its reach


@dataclass(frozen=True, eq=False)
class Said:
    """What the decoder says after each of w tokens of R pages.

    Attributes:
        tokens: int64 [R, w] on the host, the likeliest ones.
        log_probabilities: float32 [R, w] on the host, theirs in nats.
        logits: [R, w, V] on the device, until the next step.
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    logits: Tensor


def step(model: OcrModel, cache: PageCache, axes: int, given: Tensor, reach: int | None) -> tuple[Tensor, Tensor]:
    """The pass itself: no shape and no path depends on a number that is on the device.

    Args:
        axes: on which the model counts positions.
        given: int64 [R, 4 + w]: of each page its start in the cache, its length there, the next position, the prompt's
            length, and the tokens that follow.
        reach: tokens of each page that are looked at; ``None`` for the fused kernel.

    Returns:
        float32 [2, R, w], likeliest tokens and their log-probabilities; and the logits [R, w, V].
    """
    tokens = given[:, TOKENS:]
    ahead = torch.arange(tokens.shape[1], device=given.device)
    places = given[:, LENGTH, None] + ahead
    starts = given[:, START]
    cache.write(starts[:, None], places, alone=False)
    attention = slotted(starts, places, given[:, PROMPT, None], reach, model.answer_window, model.dtype)
    positions = (given[:, POSITION, None] + ahead).expand(axes, -1, -1)
    logits, _ = model.decoder(model.embed(tokens), positions, None, cache, tokens.shape[1], attention)
    return likeliest(logits), logits


def likeliest(logits: Tensor) -> Tensor:
    """float32 [2, ...]: index of the largest of ``logits`` [..., V], and its log-probability in nats."""
    wide = logits.float()
    best, tokens = wide.max(dim=-1)
    return torch.stack([tokens.float(), best - wide.logsumexp(dim=-1)])  # float32 counts tokens exactly up to 2^24


class Stepper:
    """Takes steps, captured where it can.

    Args:
        rows: most pages of a step.
    """

    def __init__(self, model: OcrModel, cache: PageCache, rows: int, axes: int, kernels: Kernels) -> None:
        self._model = model
        self._rows = rows
        self._cache = cache
        self._axes = axes
        self._kernels = kernels
        self._captured: dict[_Shape, _Captured] = {}
        # graphs are replayed one at a time: what one needs on the way may lie where another's was
        self._pool = torch.cuda.graph_pool_handle() if kernels.captured else None

    def __call__(self, given: np.ndarray) -> Said:
        """A step over pages, int64 [R, 4 + w] as `step` is given it; R pages, but perhaps more tokens, come back."""
        live, longest = len(given), int(given[:, LENGTH].max())
        if not self._kernels.captured:
            return self._eager(given, self._reach(longest + given.shape[1] - TOKENS))
        rows = _rounded_up(live, self._rows)
        width = next(width for width in WIDTHS if width >= given.shape[1] - TOKENS)
        padded = np.zeros((rows, TOKENS + width), dtype=np.int64)
        padded[:live, : given.shape[1]] = given
        padded[live:, START] = [self._cache.spare(row) for row in range(live, rows)]
        said = self._replayed(padded, self._reach(-(-(longest + width) // _REACH) * _REACH))
        return Said(said.tokens[:live], said.log_probabilities[:live], said.logits[:live])

    def _reach(self, tokens: int) -> int | None:
        return min(tokens, self._cache.capacity) if isinstance(self._cache, SlotCache) else None

    def _eager(self, given: np.ndarray, reach: int | None) -> Said:
        found, logits = step(self._model, self._cache, self._axes, _upload(given, self._model.device), reach)
        return _said(found.cpu().numpy(), logits)

    def _replayed(self, given: np.ndarray, reach: int | None) -> Said:
        shape = *given.shape, reach
        if shape in self._captured:
            return self._captured[shape](given)
        plain = self._eager(given, reach)
        try:
            captured = _Captured(self._model, self._cache, self._axes, given, reach, self._pool)
            fault = _difference(plain, captured(given))
        except Exception as error:
            if fault_of(error) != "page":
                raise
            # whatever keeps a step from being captured does not keep it from being taken
            fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        if fault is None:
            self._captured[shape] = captured
        else:
            _log.warning("steps are taken without a CUDA graph from now on, which is slower: %s", fault)
            self._kernels = replace(self._kernels, captured=False)
            self._captured.clear()
        return plain


class _Captured:
    """A step as a CUDA graph, with the buffers that it reads from and writes to."""

    def __init__(
        self, model: OcrModel, cache: PageCache, axes: int, given: np.ndarray, reach: int | None, pool: Any
    ) -> None:
        self._host = torch.from_numpy(given).pin_memory()
        self._given = self._host.to(model.device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._found, self._logits = step(model, cache, axes, self._given, reach)
        self._back = torch.empty(self._found.shape, dtype=self._found.dtype, pin_memory=True)

    def __call__(self, given: np.ndarray) -> Said:
        self._host.copy_(torch.from_numpy(given))
        self._given.copy_(self._host, non_blocking=True)
        self._graph.replay()
        self._back.copy_(self._found, non_blocking=True)
        torch.cuda.current_stream(self._given.device).synchronize()
        return _said(self._back.numpy().copy(), self._logits)


def _upload(given: np.ndarray, device: torch.device) -> Tensor:
    host = torch.from_numpy(given)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


def _said(found: np.ndarray, logits: Tensor) -> Said:
    return Said(found[0].astype(np.int64), found[1], logits)


def _rounded_up(pages: int, slots: int) -> int:
    """The next power of two, but no more than there are slots."""
    return min(1 << (pages - 1).bit_length(), slots)


def _difference(plain: Said, captured: Said) -> str | None:
    """What a captured step says otherwise than the same step taken eagerly."""
    far = float(np.abs(plain.log_probabilities - captured.log_probabilities).max())
    if not far <= _NEAR:
        return f"captured, its log-probabilities are off by up to {far:.3g} nats"
    return None
