"""Each page's keys and values stand in its slot, whatever joins, grows, leaves or is refused."""

from __future__ import annotations

import torch
from torch import Tensor

from rtprune.engine.cache import SlotCache

HEADS, WIDTH = 2, 3


def tokens(*labels: list[float]) -> Tensor:
    """Keys [B, heads, n, width] whose numbers are labels: each row's tokens, 0 where it is padded."""
    return torch.tensor(labels)[:, None, :, None].expand(-1, HEADS, -1, WIDTH).clone()


def labels(part: Tensor) -> list[list[float]]:
    assert bool((part == part[:, :1, :, :1]).all())
    return part[:, 0, :, 0].tolist()


def filled(slots: int = 3) -> SlotCache:
    """Two pages of two and three tokens."""
    cache = SlotCache(slots)
    given = tokens([0, 1, 2], [3, 4, 5])
    cache.prefill([0, 1], torch.tensor([[False, True, True], [True, True, True]]))
    seen, _ = cache.update(given, -given, 0)
    assert seen is given, "a prompt sees itself alone"
    return cache


def test_prompts_are_kept_without_their_padding_and_steps_follow_them() -> None:
    cache = filled()
    cache.append(torch.tensor([[2], [3]]), 4)
    keys, values = cache.update(tokens([10], [20]), tokens([-10], [-20]), 0)
    assert labels(keys) == [[1, 2, 10, 0], [3, 4, 5, 20]]
    assert labels(values) == [[-1, -2, -10, 0], [-3, -4, -5, -20]]


def test_refused_tokens_are_overwritten() -> None:
    cache = filled()
    cache.append(torch.tensor([[2, 3, 4], [3, 4, 5]]), 6)
    cache.update(tokens([10, 11, 12], [20, 21, 22]), tokens([0, 0, 0], [0, 0, 0]), 0)
    cache.append(torch.tensor([[3], [6]]), 7)  # of the first page's guesses all but one token were refused
    keys, _ = cache.update(tokens([13], [23]), tokens([0], [0]), 0)
    assert labels(keys)[0][:4] == [1, 2, 10, 13]
    assert labels(keys)[1] == [3, 4, 5, 20, 21, 22, 23]


def test_a_page_moves_into_the_slot_of_one_that_left_and_another_joins() -> None:
    cache = filled()
    cache.move(1, 0, 3)
    joining = tokens([7, 8, 9, 10])
    cache.prefill([1], torch.ones(1, 4, dtype=torch.bool))
    cache.update(joining, joining, 0)
    cache.append(torch.tensor([[3], [4]]), 5)
    keys, _ = cache.update(tokens([30], [40]), tokens([30], [40]), 0)
    assert labels(keys) == [[3, 4, 5, 30, 0], [7, 8, 9, 10, 40]]


def test_growing_loses_nothing_in_any_layer() -> None:
    cache = filled()
    given = tokens([0, 100, 200], [300, 400, 500])
    cache.update(given, given, 1)
    before = cache.capacity
    far = before * 2 + 7
    cache.append(torch.tensor([[2], [far]]), far + 1)
    assert cache.capacity > far
    for layer, scale in ((0, 1.0), (1, 100.0)):
        keys, _ = cache.update(tokens([9], [9]), tokens([9], [9]), layer)
        assert keys.shape == (2, HEADS, far + 1, WIDTH)
        assert labels(keys)[0][:3] == [1 * scale, 2 * scale, 9]
        assert labels(keys)[1][:3] == [3 * scale, 4 * scale, 5 * scale]
        assert labels(keys)[1][far] == 9
