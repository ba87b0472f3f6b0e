"""Keys and values of the pages that are decoded together: a slot for each, in memory that is taken once and reused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_STEP = 256  # tokens by which slots grow, at least


class SlotCache:
    """What transformers' decoders take as ``past_key_values``, with slots that pages enter and leave one by one.

    Every page's tokens stand at the start of its slot, whatever its length; tokens that are refused after all are
    overwritten by the next ones. Before each forward pass `prefill` or `append` says where its keys and values go.

    Args:
        slots: how many pages there is room for.
    """

    layers: tuple[Any, ...] = ()  # transformers' mask functions look through it; masks are made by the caller

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.capacity = 0
        self._keys: list[Tensor] = []  # a layer's: [slots, capacity, heads, width]
        self._values: list[Tensor] = []
        self._where = torch.empty(0, dtype=torch.long)
        self._real: Tensor | None = None
        self._view = (0, 0)

    def prefill(self, rows: Sequence[int], real: Tensor) -> None:
        """The next pass reads whole prompts into the slots ``rows``; ``real`` [B, n] is false where one is padded."""
        self._reserve(real.shape[1])
        for part in [*self._keys, *self._values]:
            part[list(rows)] = 0  # what the page before has left could be NaN, see `_empty`
        starts = torch.tensor(rows, device=real.device) * self.capacity
        self._where = (starts[:, None] + real.cumsum(dim=1) - 1)[real]
        self._real = real

    def append(self, places: Tensor, reach: int) -> None:
        """The next pass adds tokens at the ``places`` [n, count] of the first slots, and sees ``reach`` of each."""
        self._reserve(reach)
        starts = torch.arange(len(places), device=places.device) * self.capacity
        self._where = (starts[:, None] + places).flatten()
        self._real = None
        self._view = (len(places), reach)

    def move(self, source: int, target: int, length: int) -> None:
        """Give the ``length`` tokens of one slot to another."""
        for part in [*self._keys, *self._values]:
            part[target, :length] = part[source, :length]
            part[target, length:] = 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *unused: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values, [B, heads, n, width]; give those that its tokens attend to."""
        if layer == len(self._keys):
            self._keys.append(self._empty(keys))
            self._values.append(self._empty(values))
        for part, new in ((self._keys[layer], keys), (self._values[layer], values)):
            rows = new.transpose(1, 2)
            chosen = rows.flatten(0, 1) if self._real is None else rows[self._real]
            part.flatten(0, 1).index_copy_(0, self._where, chosen)
        if self._real is not None:
            return keys, values  # a prompt sees nothing but itself
        live, reach = self._view
        return self._keys[layer][:live, :reach].transpose(1, 2), self._values[layer][:live, :reach].transpose(1, 2)

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by transformers; what depends on it is always given, positions and masks."""
        return 0

    def _empty(self, like: Tensor) -> Tensor:
        # zeros, as whatever else is there could be NaN, which a mask does not undo
        return like.new_zeros(self.slots, self.capacity, like.shape[1], like.shape[3])

    def _reserve(self, tokens: int) -> None:
        """Make every slot hold ``tokens``, by half as much again at a time."""
        if tokens <= self.capacity:
            return
        before = self.capacity
        capacity = max(tokens, before + max(before // 2, _STEP))

        def grown(part: Tensor) -> Tensor:
            larger = part.new_zeros(self.slots, capacity, *part.shape[2:])
            larger[:, :before] = part
            return larger

        # all of them first: memory may run out on the way
        keys, values = [grown(part) for part in self._keys], [grown(part) for part in self._values]
        self._keys, self._values, self.capacity = keys, values, capacity
