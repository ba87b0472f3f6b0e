"""Keys and values of the pages that are decoded together: a slot for each, in memory that is taken once and reused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensor

_STEP = 256  # slots hold a multiple of so many tokens


class SlotCache:
    """What transformers' decoders take as ``past_key_values``, with slots that pages enter and leave one by one.

    Every page's tokens stand at the start of its slot, whatever its length; tokens that are refused after all are
    overwritten by the next ones. Before each forward pass `write` says where its keys and values go. What no page has
    written is zero: anything else could be NaN, which a mask does not undo.

    Args:
        slots: how many pages there is room for.
        capacity: tokens that a slot holds; see `reserve`.
    """

    layers: tuple[Any, ...] = ()  # transformers' mask functions look through it; masks are made by the caller

    def __init__(self, slots: int, capacity: int = 0) -> None:
        self.slots = slots
        self.capacity = math.ceil(capacity / _STEP) * _STEP
        self._keys: list[Tensor] = []  # a layer's: [slots, capacity, heads, width]
        self._values: list[Tensor] = []
        self._where: tuple[Tensor, Tensor] | None = None
        self._alone = True

    def write(self, rows: Tensor, places: Tensor, *, alone: bool) -> None:
        """The next pass's tokens go to the ``places`` of the slots ``rows``, int64, whose shapes broadcast.

        Args:
            alone: whether they see each other and nothing else, as a prompt's do.
        """
        self._where = rows, places
        self._alone = alone

    def update(self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values, [B, heads, n, width].

        Returns:
            Them as they are where tokens are `alone`, else all slots', [slots, capacity, heads, width].
        """
        if layer == len(self._keys):
            self._keys.append(self._empty(keys))
            self._values.append(self._empty(values))
        assert self._where is not None, "write says where they go"
        rows, places = self._where
        shape = (rows + places).shape
        for part, new in ((self._keys[layer], keys), (self._values[layer], values)):
            part.index_put_((rows, places), new.transpose(1, 2).reshape(*shape, *part.shape[2:]))
        return (keys, values) if self._alone else (self._keys[layer], self._values[layer])

    def move(self, source: int, target: int, length: int) -> None:
        """Give the ``length`` tokens of one slot to another, which is empty."""
        for part in [*self._keys, *self._values]:
            part[target, :length] = part[source, :length]
        self.clear(source, length)

    def clear(self, slot: int, length: int) -> None:
        """Empty a slot in which ``length`` tokens have been written."""
        for part in [*self._keys, *self._values]:
            part[slot, :length] = 0

    def reserve(self, tokens: int, used: int) -> None:
        """Make every slot hold ``tokens``, keeping the first ``used``.

        Layers grow one after another, as old and new of all would not fit. Where memory runs out on the way, those
        that have grown stay larger than they need be, and all that is in them is as it was.
        """
        if tokens <= self.capacity:
            return
        capacity = math.ceil(tokens / _STEP) * _STEP
        for parts in (self._keys, self._values):
            for layer, part in enumerate(parts):
                if part.shape[1] < capacity:
                    larger = self._zeros(part, capacity, *part.shape[2:])
                    larger[:, : min(used, part.shape[1])] = part[:, : min(used, part.shape[1])]
                    parts[layer] = larger
        self.capacity = capacity

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers; what depends on it is always given, positions and masks."""
        return 0

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
