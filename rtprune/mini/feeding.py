"""What training is fed: pages drawn by processes of their own, for the lesson that is being taught."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from rtprune.mini.generator import PRINT, SANS, SERIF, TYPEWRITER, draw_page
from rtprune.mini.lessons import LENGTH_STEP, Batch, make_batch

#: Designs that a page is drawn from, evenly, lesson by lesson; letters of unlike width take longest to learn.
LESSONS = (
    (PRINT,),
    (PRINT, TYPEWRITER),
    (PRINT, TYPEWRITER, SANS),
    (PRINT, TYPEWRITER, SANS, SANS, SERIF, SERIF),
)
WORDS, FULL_PAGE = (5, 100), (90, 100)  # more words than fit: the encoder learns most from full pages
KEPT = 512  # batches that are shown again while no fresh one is ready


@dataclass(frozen=True)
class Drawing:
    """What pages are drawn at present; shared with the processes that draw them.

    Attributes:
        state: float64 [4] in shared memory: the lesson, the share of full pages, the share of characters that are
            replaced, the share of pages that lose blank tokens.
    """

    state: Tensor

    @classmethod
    def shared(cls) -> Drawing:
        """The first lesson's."""
        return cls(torch.zeros(4, dtype=torch.float64).share_memory_())  # type: ignore[no-untyped-call]

    def begin(self, stage: str, lesson: int) -> None:
        """Draw pages for a lesson of a stage from now on."""
        encoder, joint = stage == "encoder", stage == "joint"
        now = [lesson, 0.8 * encoder, 0.0 if encoder else 0.03, 0.5 * joint]
        self.state.copy_(torch.tensor(now, dtype=torch.float64))


class Batches(IterableDataset[Batch]):
    """Endless batches of fresh pages; a quarter of them repeats earlier lessons."""

    def __init__(
        self, drawing: Drawing, pages: int, words: tuple[int, int], seed: int, length_step: int = LENGTH_STEP
    ) -> None:
        self._drawing = drawing
        self._pages = pages
        self._words = words
        self._seed = seed
        self._length_step = length_step

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        if worker is not None:
            torch.set_num_threads(1)
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        while True:
            lesson, full, noise, pruned = self._drawing.state.tolist()
            pages = []
            for _ in range(self._pages):
                earlier = lesson and rng.random() < 0.25
                designs = LESSONS[int(rng.integers(lesson)) if earlier else int(lesson)]
                design = designs[rng.integers(len(designs))]
                words = FULL_PAGE if rng.random() < full else self._words
                pages.append(draw_page(rng, "training", replace(design, words=words)))
            yield make_batch(pages, rng, noise, pruned, self._length_step)


def drawn(batches: Batches, drawers: int, *, pin: bool) -> Iterator[Batch]:
    """``batches``, drawn by so many processes; in this one where there are none."""
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            num_workers=drawers,
            pin_memory=pin,
            prefetch_factor=2 if drawers else None,
            multiprocessing_context="spawn" if drawers else None,
        )
    )


class Feed:
    """Each fresh batch as soon as it is drawn, and while a GPU is ahead of that, one of the last `KEPT` once more."""

    def __init__(self, fresh: Iterator[Batch], device: torch.device, seed: int) -> None:
        self._fresh: queue.Queue[Batch | Exception] = queue.Queue(maxsize=4)
        self._device = device
        self._kept: deque[Batch] = deque(maxlen=KEPT)
        self._rng = np.random.default_rng(seed)
        threading.Thread(target=self._fetch, args=(fresh,), daemon=True).start()

    def forget(self) -> None:
        """Show no earlier batch again: another stage begins."""
        self._kept.clear()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Batch:
        try:
            batch = self._fresh.get(block=not self._kept)
        except queue.Empty:
            return self._kept[int(self._rng.integers(len(self._kept)))]
        if isinstance(batch, Exception):
            raise batch
        self._kept.append(batch.to(self._device))
        return self._kept[-1]

    def _fetch(self, fresh: Iterator[Batch]) -> None:
        try:
            for batch in fresh:
                self._fresh.put(batch)
        except Exception as error:  # raised where batches are asked for
            self._fresh.put(error)
