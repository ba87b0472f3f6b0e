"""Pages join when waiting has cost as much as a prefill does; none waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtprune.engine.scheduler import Scheduler


def measured(fixed: float, page: float) -> Scheduler:
    """A scheduler that has seen prefills of 8 and of 2 pages."""
    scheduler = Scheduler()
    for pages in (8, 2):
        scheduler.joined(fixed + page * pages, pages)
    return scheduler


def test_pages_join_at_once_where_nothing_is_known_or_nobody_waits_for_them() -> None:
    assert Scheduler().may_join(free=1, live=15)
    assert measured(10.0, 20.0).may_join(free=16, live=0)


def test_pages_never_join_where_no_slot_is_free() -> None:
    scheduler = measured(0.0, 20.0)
    scheduler.stepped(1e9, 1)
    assert not scheduler.may_join(free=0, live=16)


def test_the_fixed_part_is_told_from_what_each_page_adds() -> None:
    assert measured(10.0, 20.0).fixed_ms == pytest.approx(10.0)
    assert measured(0.0, 20.0).fixed_ms == pytest.approx(0.0, abs=1e-9)


def test_of_prefills_of_one_size_the_fixed_part_is_taken_to_be_a_page_s() -> None:
    scheduler = Scheduler()
    for _ in range(3):
        scheduler.joined(50.0, 4)
    assert scheduler.fixed_ms == pytest.approx(10.0)


def test_pages_join_once_idle_slots_have_cost_what_the_pages_at_work_would_lose() -> None:
    """15 pages would lose 10 ms each; one free slot costs 4 ms a step, and 37 steps are not yet 150 ms."""
    scheduler = measured(10.0, 20.0)
    for _ in range(37):
        scheduler.stepped(4.0, 1)
    assert not scheduler.may_join(free=1, live=15)
    scheduler.stepped(4.0, 1)
    assert scheduler.may_join(free=1, live=15)
    scheduler.joined(30.0, 1)
    assert not scheduler.may_join(free=1, live=15), "what was waited for is paid"


@given(
    prefills=st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 64)), max_size=12),
    free=st.integers(1, 63),
)
def test_no_page_waits_longer_than_the_longest_prefill_is_worth(prefills: list[tuple[float, int]], free: int) -> None:
    scheduler = Scheduler()
    for milliseconds, pages in prefills:
        scheduler.joined(milliseconds, pages)
    live = 64 - free
    longest = max((milliseconds for milliseconds, _ in prefills), default=0.0)
    assert 0.0 <= scheduler.fixed_ms <= longest + 1e-6
    scheduler.stepped(live * longest / free + 1e-3, free)
    assert scheduler.may_join(free, live)
