"""Keys and values of the pages that are decoded together, in memory that is taken once and reused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

STEP = 256  # room for tokens comes in multiples of this


class PageCache(ABC):
    """What transformers' decoders take as ``past_key_values``, with pages that come and go one by one.

    A page's tokens stand one behind the other from a start that the cache gives it; tokens that are refused after all
    are overwritten by the next ones. Before each forward pass `write` says where its keys and values go. Pages are
    known by any hashable name.
    """

    layers: tuple[Any, ...] = ()  # transformers' mask functions look through it; masks are made by the caller

    def __init__(self) -> None:
        self._keys: list[Tensor] = []  # a layer's
        self._values: list[Tensor] = []
        self._where: tuple[Tensor, ...] = ()
        self._shape = torch.Size()
        self._alone = True

    @abstractmethod
    def admissible(self, lengths: Sequence[int]) -> int:
        """How many of the first pages of these ``lengths``, in tokens, there is room for now."""

    @abstractmethod
    def admit(self, page: Hashable, tokens: int, most: int) -> None:
        """Give a page room for ``tokens``, of ``most`` in the end. Raises ``ValueError`` where there is not so much."""

    @abstractmethod
    def grow(self, page: Hashable, tokens: int) -> bool:
        """Give a page room for ``tokens`` in all, with what it has in it; whether there was any.

        No more tokens may be written of a page than were asked for here or in `admit`.
        """

    @abstractmethod
    def start(self, page: Hashable) -> int:
        """Where a page's tokens begin, in the cache's own count."""

    @abstractmethod
    def spare(self, row: int) -> int:
        """A start for the row of a batch that no page has."""

    @abstractmethod
    def release(self, page: Hashable) -> None:
        """Take a page's room back, which may move others."""

    @abstractmethod
    def write(self, starts: Tensor, places: Tensor, *, alone: bool) -> None:
        """The next pass's tokens go to the ``places`` behind the ``starts`` of their pages, int64 of like shapes.

        Args:
            alone: whether they see each other and nothing else, as a prompt's do.
        """

    @abstractmethod
    def _empty(self, like: Tensor) -> Tensor:
        """Memory for one layer's keys or values, of which ``like`` [B, heads, n, width] are some."""

    def update(self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values, [B, heads, n, width].

        Returns:
            Them as they are where tokens are ``alone``, else all of the layer's: [slots, capacity, heads, width] of a
            `SlotCache`, [tokens, heads, width] of a `PooledCache`.
        """
        if layer == len(self._keys):
            self._keys.append(self._empty(keys))
            self._values.append(self._empty(values))
        for part, new in ((self._keys[layer], keys), (self._values[layer], values)):
            part.index_put_(self._where, new.transpose(1, 2).reshape(*self._shape, *part.shape[-2:]))
        return (keys, values) if self._alone else (self._keys[layer], self._values[layer])

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers; what depends on it is always given, positions and masks."""
        return 0


class SlotCache(PageCache):
    """Slots of one length; the n pages are always in the first n, and start at their slots' numbers.

    What no page has written is zero: anything else could be NaN, which a mask does not undo.

    Args:
        slots: how many pages there is room for.
        capacity: tokens that a slot holds at first; a longer page makes all of them longer.
    """

    def __init__(self, slots: int, capacity: int = 0) -> None:
        super().__init__()
        self.slots = slots
        self.capacity = _rounded(capacity)
        self._pages: dict[Hashable, int] = {}  # in the order of their slots: tokens they have asked for

    def admissible(self, lengths: Sequence[int]) -> int:
        return min(self.slots - len(self._pages), len(lengths))

    def admit(self, page: Hashable, tokens: int, most: int) -> None:
        self._reserve(most)
        self._pages[page] = tokens

    def grow(self, page: Hashable, tokens: int) -> bool:
        self._reserve(tokens)
        self._pages[page] = max(self._pages[page], tokens)
        return True

    def start(self, page: Hashable) -> int:
        return list(self._pages).index(page)

    def spare(self, row: int) -> int:
        return row

    def release(self, page: Hashable) -> None:
        slot, pages = self.start(page), list(self._pages.items())
        self._clear(slot, self._pages[page])
        last, written = pages.pop()
        if last != page:
            pages[slot] = last, written
            for part in [*self._keys, *self._values]:
                part[slot, :written] = part[len(pages), :written]
            self._clear(len(pages), written)
        self._pages = dict(pages)

    def write(self, starts: Tensor, places: Tensor, *, alone: bool) -> None:
        self._where, self._shape, self._alone = (starts, places), places.shape, alone

    def _clear(self, slot: int, written: int) -> None:
        for part in [*self._keys, *self._values]:
            part[slot, :written] = 0

    def _reserve(self, tokens: int) -> None:
        """Make every slot hold ``tokens``.

        Layers grow one after another, as old and new of all would not fit. Where memory runs out on the way, those
        that have grown stay larger than they need be, and all that is in them is as it was.
        """
        capacity = _rounded(tokens)
        if capacity <= self.capacity:
            return
        for parts in (self._keys, self._values):
            for layer, part in enumerate(parts):
                if part.shape[1] < capacity:
                    larger = self._zeros(part, capacity, *part.shape[2:])
                    for slot, written in enumerate(self._pages.values()):
                        larger[slot, :written] = part[slot, :written]
                    parts[layer] = larger
        self.capacity = capacity

    def _empty(self, like: Tensor) -> Tensor:
        return self._zeros(like, self.capacity, like.shape[1], like.shape[3])

    def _zeros(self, like: Tensor, capacity: int, heads: int, width: int) -> Tensor:
        """[slots, capacity, heads, width]; on a CPU each head's tokens lie together, which it reads twice as fast."""
        if like.device.type != "cpu":
            return like.new_zeros(self.slots, capacity, heads, width)
        shape = self.slots, heads, capacity, width
        if isinstance(like, FakeTensor):
            return like.new_zeros(shape).transpose(1, 2)
        # a system gives zeroed memory when it is first written to: slots cost what their pages have in them
        zeros = torch.from_numpy(np.zeros(math.prod(shape) * like.dtype.itemsize, dtype=np.uint8))
        return zeros.view(like.dtype).view(shape).transpose(1, 2)


class PooledCache(PageCache):
    """One pool of tokens, in which each page has a region as long as it needs, for kernels that read no further.

    Regions are given out one behind the other. Where the end is reached, those that are in use move together.

    Args:
        tokens: that the pool holds.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._total = _rounded(tokens) + 2 * STEP  # for rows without a page, and what rounding takes
        self._regions: dict[Hashable, range] = {}  # in the order in which they lie

    @property
    def free(self) -> int:
        """Tokens that no page has room for."""
        return self._total - STEP - sum(map(len, self._regions.values()))

    def admissible(self, lengths: Sequence[int]) -> int:
        free = self.free
        for count, length in enumerate(lengths):
            free -= _rounded(length)
            if free < 0:
                return count
        return len(lengths)

    def admit(self, page: Hashable, tokens: int, most: int) -> None:
        size = _rounded(tokens)
        if size > self.free:
            raise ValueError(f"{tokens} tokens do not fit into a cache that has room for {self.free}")
        if self._end + size > self._total:
            self._gather(list(self._regions))
        self._regions[page] = range(self._end, self._end + size)

    def grow(self, page: Hashable, tokens: int) -> bool:
        before, size = self._regions[page], _rounded(tokens)
        if size <= len(before):
            return True
        if size - len(before) > self.free:
            return False
        last = before.stop == self._end
        begin = before.start if last else self._end
        if begin + size <= self._total:
            if not last:
                for part in [*self._keys, *self._values]:
                    part[begin : begin + len(before)] = part[before.start : before.stop]
        else:
            self._gather([*(other for other in self._regions if other != page), page])
            begin = self._regions[page].start
        del self._regions[page]  # the last one begins behind all others
        self._regions[page] = range(begin, begin + size)
        return True

    def start(self, page: Hashable) -> int:
        return self._regions[page].start

    def spare(self, row: int) -> int:
        return 0

    def release(self, page: Hashable) -> None:
        del self._regions[page]

    def write(self, starts: Tensor, places: Tensor, *, alone: bool) -> None:
        self._where, self._shape, self._alone = (starts + places,), places.shape, alone

    @property
    def _end(self) -> int:
        return next(reversed(self._regions.values())).stop if self._regions else STEP

    def _gather(self, pages: Sequence[Hashable]) -> None:
        """Move the regions of all ``pages`` together, in that order."""
        regions = [self._regions[page] for page in pages]
        for part in [*self._keys, *self._values]:
            if regions:
                kept = torch.cat([part[region.start : region.stop] for region in regions])
                part[STEP : STEP + len(kept)] = kept
        moved, end = {}, STEP
        for page, region in zip(pages, regions, strict=True):
            moved[page] = range(end, end + len(region))
            end += len(region)
        self._regions = moved

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self._total, like.shape[1], like.shape[3])


def _rounded(tokens: int) -> int:
    return max(1, math.ceil(tokens / STEP)) * STEP
