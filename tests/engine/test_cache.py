"""Each page's keys and values stay its own, whatever joins, grows, leaves or is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rtprune.engine.cache import PageCache, PooledCache, SlotCache

HEADS, WIDTH = 2, 3


def tokens(*labels: list[float]) -> Tensor:
    """Keys [B, heads, n, width] whose numbers are labels: each row's tokens, 0 where it is padded."""
    return torch.tensor(labels, dtype=torch.float32)[:, None, :, None].expand(-1, HEADS, -1, WIDTH).clone()


def write(cache: PageCache, places: dict[str, list[int]], *, alone: bool = False) -> None:
    starts = torch.tensor([cache.start(page) for page in places])
    cache.write(starts[:, None], torch.tensor(list(places.values())), alone=alone)


def prefill(cache: PageCache, prompts: dict[str, list[float]], layer: int = 0) -> None:
    """Prompts packed end to end as one sequence."""
    starts = [cache.start(page) for page, prompt in prompts.items() for _ in prompt]
    places = [place for prompt in prompts.values() for place in range(len(prompt))]
    cache.write(torch.tensor(starts), torch.tensor(places), alone=True)
    given = tokens([label for prompt in prompts.values() for label in prompt])
    seen, _ = cache.update(given, -given, layer)
    assert seen is given, "prompts see nothing of the others"


def held(cache: PageCache, page: str, count: int, layer: int = 0) -> list[float]:
    """The first ``count`` labels of a page's keys; its values are the same, negative."""
    found = []
    for part in (cache._keys[layer], cache._values[layer]):
        start = cache.start(page)
        mine = part[start, :count] if part.ndim == 4 else part[start : start + count]
        assert bool((mine == mine[:, :1, :1]).all())
        found.append(mine[:, 0, 0].tolist())
    assert found[1] == [-label for label in found[0]]
    return found[0]


CACHES = [lambda: SlotCache(3, 8), lambda: PooledCache(3 * 256)]


@pytest.fixture(params=CACHES, ids=["slots", "pool"])
def cache(request: pytest.FixtureRequest) -> PageCache:
    """Two pages, "a" of two tokens and "b" of three, in a cache that has room for a third."""
    made: PageCache = request.param()
    for page in "ab":
        made.admit(page, 20, 100)
    prefill(made, {"a": [1, 2], "b": [3, 4, 5]})
    return made


def test_prompts_are_kept_apart_and_steps_follow_them(cache: PageCache) -> None:
    write(cache, {"a": [2], "b": [3]})
    cache.update(tokens([10], [20]), tokens([-10], [-20]), 0)
    assert (held(cache, "a", 3), held(cache, "b", 4)) == ([1, 2, 10], [3, 4, 5, 20])


def test_refused_tokens_are_overwritten(cache: PageCache) -> None:
    write(cache, {"a": [2, 3, 4], "b": [3, 4, 5]})
    cache.update(tokens([10, 11, 12], [20, 21, 22]), tokens([-10, -11, -12], [-20, -21, -22]), 0)
    write(cache, {"a": [3], "b": [6]})  # of the first page's guesses all but one token were refused
    cache.update(tokens([13], [23]), tokens([-13], [-23]), 0)
    assert held(cache, "a", 4) == [1, 2, 10, 13]
    assert held(cache, "b", 7) == [3, 4, 5, 20, 21, 22, 23]


def test_a_page_leaves_and_another_takes_its_room(cache: PageCache) -> None:
    cache.release("a")
    cache.admit("c", 20, 100)
    prefill(cache, {"c": [7, 8]})
    write(cache, {"b": [3], "c": [2]})
    cache.update(tokens([30], [40]), tokens([-30], [-40]), 0)
    assert (held(cache, "b", 4), held(cache, "c", 3)) == ([3, 4, 5, 30], [7, 8, 40])


def test_slots_that_pages_have_left_are_empty() -> None:
    slots = SlotCache(3, 8)
    for page in "abc":
        slots.admit(page, 20, 100)
    prefill(slots, {"a": [1, 2], "b": [3, 4, 5], "c": [6]})
    slots.release("a")
    slots.release("b")
    assert (held(slots, "c", 4), slots.start("c")) == ([6, 0, 0, 0], 0)
    assert not slots._keys[0][1:].any()


def test_growing_loses_nothing_in_any_layer(cache: PageCache) -> None:
    prefill(cache, {"a": [100, 200], "b": [300, 400, 500]}, layer=1)
    if isinstance(cache, SlotCache):
        cache.admit("long", 20, 5 * 256)
        assert cache.capacity == 5 * 256
    assert cache.grow("a", 400)
    write(cache, {"a": [399], "b": [3]})
    for layer, scale in ((0, 1.0), (1, 100.0)):
        cache.update(tokens([9], [8]), tokens([-9], [-8]), layer)
        assert held(cache, "a", 2, layer) == [1 * scale, 2 * scale]
        assert held(cache, "a", 400, layer)[399] == 9
        assert held(cache, "b", 4, layer) == [3 * scale, 4 * scale, 5 * scale, 8]


def test_a_pool_says_what_it_has_room_for() -> None:
    pool = PooledCache(4 * 256)
    assert pool.free == 5 * 256, "with what rounding may take"
    assert pool.admissible([10, 257, 256]) == 3
    assert pool.admissible([10, 257, 256, 3 * 256, 1]) == 3
    pool.admit("a", 257, 300)
    assert not pool.grow("a", 5 * 256 + 1)
    with pytest.raises(ValueError, match="800 tokens do not fit into a cache that has room for 768"):
        pool.admit("b", 800, 900)
    pool.release("a")
    assert pool.free == 5 * 256


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1200)), max_size=40))
def test_whatever_pages_of_a_pool_do_each_keeps_its_own(moves: list[tuple[str, int]]) -> None:
    pool, known = PooledCache(1024), dict[str, list[float]]()
    for number, (page, size) in enumerate(moves):
        if page not in known and pool.admissible([size]):
            pool.admit(page, size, size)
            known[page] = []
        elif page in known and size % 3 == 0:
            pool.release(page)
            del known[page]
        elif page in known and pool.grow(page, max(size, len(known[page]))):
            label = float(number)
            grown = max(size, len(known[page])) - len(known[page])
            if grown:
                write(pool, {page: list(range(len(known[page]), len(known[page]) + grown))})
                pool.update(tokens([label] * grown), -tokens([label] * grown), 0)
                known[page] += [label] * grown
        regions = sorted((region.start, region.stop) for region in pool._regions.values())
        assert all(stop <= start for (_, stop), (start, _) in pairwise(regions))
        assert not regions or (regions[0][0] >= 256 and regions[-1][1] <= pool._total)
        for other, labels in known.items():
            assert not labels or held(pool, other, len(labels)) == labels


def test_where_memory_runs_out_while_slots_grow_nothing_in_them_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = SlotCache(3, 8)
    for page in "ab":
        slots.admit(page, 20, 100)
    prefill(slots, {"a": [1, 2], "b": [3, 4, 5]})
    zeros, made = SlotCache._zeros, []

    def scarce(cache: SlotCache, *given: Any) -> Tensor:
        if made:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made.append(given)
        return zeros(cache, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SlotCache, "_zeros", scarce)
        with pytest.raises(torch.OutOfMemoryError):
            slots.grow("a", 2000)  # the keys have grown, the values have not
    write(slots, {"a": [2], "b": [3]})
    slots.update(tokens([10], [20]), tokens([-10], [-20]), 0)
    assert held(slots, "b", 4) == [3, 4, 5, 20]


def test_slots_of_a_cpu_take_memory_as_they_fill() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    slots = SlotCache(64, 2**20)  # 3 GiB
    slots.admit("a", 20, 100)
    prefill(slots, {"a": [1, 2]})
    assert resident() - before < 2**28
