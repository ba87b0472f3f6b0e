"""Each page's keys and values stand in its slot, whatever joins, grows, leaves or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rtprune.engine.cache import SlotCache

HEADS, WIDTH = 2, 3


def tokens(*labels: list[float]) -> Tensor:
    """Keys [B, heads, n, width] whose numbers are labels: each row's tokens, 0 where it is padded."""
    return torch.tensor(labels, dtype=torch.float32)[:, None, :, None].expand(-1, HEADS, -1, WIDTH).clone()


def labels(part: Tensor) -> list[list[float]]:
    assert bool((part == part[:, :1, :, :1]).all())
    return part[:, 0, :, 0].tolist()


def write(cache: SlotCache, rows: list[int], places: list[list[int]], *, alone: bool = False) -> None:
    cache.write(torch.tensor(rows)[:, None], torch.tensor(places), alone=alone)


def prefill(cache: SlotCache, prompts: dict[int, list[float]], layer: int = 0, sign: float = -1.0) -> None:
    """Prompts by slot, packed end to end as one sequence."""
    rows = [row for row, prompt in prompts.items() for _ in prompt]
    places = [place for prompt in prompts.values() for place in range(len(prompt))]
    cache.write(torch.tensor(rows), torch.tensor(places), alone=True)
    given = tokens([label for prompt in prompts.values() for label in prompt])
    seen, _ = cache.update(given, sign * given, layer)
    assert seen is given, "prompts see nothing of the slots"


def filled(slots: int = 3) -> SlotCache:
    """Two pages of two and three tokens."""
    cache = SlotCache(slots, 8)
    prefill(cache, {0: [1, 2], 1: [3, 4, 5]})
    return cache


def test_prompts_are_kept_apart_and_steps_follow_them() -> None:
    cache = filled()
    write(cache, [0, 1], [[2], [3]])
    keys, values = cache.update(tokens([10], [20]), tokens([-10], [-20]), 0)
    assert [row[:5] for row in labels(keys.transpose(1, 2))] == [[1, 2, 10, 0, 0], [3, 4, 5, 20, 0], [0] * 5]
    assert [row[:4] for row in labels(values.transpose(1, 2))[:2]] == [[-1, -2, -10, 0], [-3, -4, -5, -20]]


def test_refused_tokens_are_overwritten() -> None:
    cache = filled()
    write(cache, [0, 1], [[2, 3, 4], [3, 4, 5]])
    cache.update(tokens([10, 11, 12], [20, 21, 22]), tokens([0, 0, 0], [0, 0, 0]), 0)
    write(cache, [0, 1], [[3], [6]])  # of the first page's guesses all but one token were refused
    keys, _ = cache.update(tokens([13], [23]), tokens([0], [0]), 0)
    first, second, _ = labels(keys.transpose(1, 2))
    assert first[:5] == [1, 2, 10, 13, 12]
    assert second[:7] == [3, 4, 5, 20, 21, 22, 23]


def test_a_page_moves_into_the_slot_of_one_that_left_and_another_joins() -> None:
    cache = filled()
    cache.clear(0, 2)
    cache.move(1, 0, 3)
    prefill(cache, {1: [7, 8]})
    write(cache, [0, 1], [[3], [2]])
    keys, _ = cache.update(tokens([30], [40]), tokens([30], [40]), 0)
    assert [row[:5] for row in labels(keys.transpose(1, 2))] == [[3, 4, 5, 30, 0], [7, 8, 40, 0, 0], [0] * 5]


def test_growing_loses_nothing_in_any_layer() -> None:
    cache = filled()
    prefill(cache, {0: [100, 200], 1: [300, 400, 500]}, layer=1)
    far = cache.capacity * 2 + 7
    cache.reserve(far + 1, used=3)
    assert cache.capacity > far
    write(cache, [0, 1], [[2], [far]])
    for layer, scale in ((0, 1.0), (1, 100.0)):
        keys, _ = cache.update(tokens([9], [9]), tokens([9], [9]), layer)
        first, second, _ = labels(keys.transpose(1, 2))
        assert first[:3] == [1 * scale, 2 * scale, 9]
        assert second[:3] == [3 * scale, 4 * scale, 5 * scale]
        assert second[far] == 9


def test_where_memory_runs_out_while_slots_grow_nothing_in_them_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled()
    zeros, made = SlotCache._zeros, []

    def scarce(cache: SlotCache, *given: Any) -> Tensor:
        if made:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made.append(given)
        return zeros(cache, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SlotCache, "_zeros", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            cache.reserve(2000, used=3)  # the keys have grown, the values have not
    write(cache, [0, 1], [[2], [3]])
    for part, sign in zip(cache.update(tokens([10], [20]), tokens([-10], [-20]), 0), (1, -1), strict=True):
        assert labels(part.transpose(1, 2) * sign)[1][:4] == [3, 4, 5, 20]


def test_slots_of_a_cpu_take_memory_as_they_fill() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    cache = SlotCache(64, 2**20)  # 3 GiB
    prefill(cache, {0: [1, 2], 63: [3]})
    assert resident() - before < 2**28
