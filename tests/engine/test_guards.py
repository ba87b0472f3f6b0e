from __future__ import annotations

import random

import pytest

from rtprune.engine.guards import NGRAM, WINDOW, LoopGuard, PageGuard


def found_after(guard: LoopGuard, tokens: list[int]) -> int | None:
    """How many tokens it took to see a loop."""
    for count, token in enumerate(tokens, start=1):
        if guard.repeats(token):
            return count
    return None


@pytest.mark.parametrize("period", [1, 2, 37, 60])
def test_a_loop_is_found_as_soon_as_an_ngram_stands_there_again(period: int) -> None:
    tokens = [7, *range(100, 100 + period), *range(100, 100 + period)] + list(range(100, 100 + period)) * 40
    assert found_after(LoopGuard(ngram=30, window=90), tokens) == 1 + period + 30


def test_a_repetition_longer_than_the_window_is_none() -> None:
    assert found_after(LoopGuard(ngram=30, window=90), list(range(61)) * 4) is None


def test_what_differs_at_one_token_is_no_repetition() -> None:
    rows = [token for row in range(50) for token in [1, 2, 3, 4, 5, 6, 7, 8, 9, 1000 + row]]
    assert found_after(LoopGuard(ngram=30, window=90), rows) is None


def test_it_says_what_the_definition_says() -> None:
    chance = random.Random(5)
    ngram, window = 4, 11
    for _ in range(300):
        tokens = [chance.randrange(2) for _ in range(30)]
        wanted = None
        for end in range(1, len(tokens) + 1):
            tail = tokens[max(0, end - ngram) : end]
            starts = range(max(0, end - window), end - ngram)
            if len(tail) == ngram and any(tokens[start : start + ngram] == tail for start in starts):
                wanted = end
                break
        assert found_after(LoopGuard(ngram=ngram, window=window), tokens) == wanted


def test_counts_of_every_period_say_the_same() -> None:
    chance = random.Random(6)
    ngram, window, exempt = 3, 9, frozenset({0})
    loops = 0
    for _ in range(300):
        tokens = [chance.randrange(3) for _ in range(30)]
        counts, wanted = [0] * (window - ngram + 1), None
        for place, token in enumerate(tokens):
            for period in range(1, len(counts)):
                same = place >= period and tokens[place - period] == token
                counts[period] = counts[period] + (token not in exempt) if same else 0
            if max(counts) >= ngram:
                wanted = place + 1
                break
        loops += wanted is not None
        assert found_after(LoopGuard(exempt, ngram, window), tokens) == wanted
    assert 30 < loops < 300


def test_empty_table_cells_are_no_loop() -> None:
    opened, closed = 11, 12
    assert found_after(LoopGuard(frozenset({opened, closed})), [opened, closed] * 1000) is None


def test_cells_with_the_same_number_need_as_many_numbers() -> None:
    opened, closed, zero = 11, 12, 5
    cells = [opened, zero, closed] * 200
    count = found_after(LoopGuard(frozenset({opened, closed})), cells)
    assert count is not None
    assert cells[:count].count(zero) == NGRAM + 1


def test_a_dotted_line_of_eighty_is_no_loop() -> None:
    assert found_after(LoopGuard(), list(range(50)) + [3] * 80 + list(range(50))) is None


def test_a_page_ends_with_the_end_token() -> None:
    guard = PageGuard(end_token_ids=frozenset({1}), max_tokens=10)
    assert [guard.after(token) for token in (5, 6, 1)] == [None, None, "eos"]


def test_a_page_is_cut_at_the_limit() -> None:
    guard = PageGuard(end_token_ids=frozenset({1}), max_tokens=3)
    assert [guard.after(token) for token in (5, 6, 7)] == [None, None, "length"]


def test_an_end_token_at_the_limit_is_an_end() -> None:
    guard = PageGuard(end_token_ids=frozenset({1}), max_tokens=2)
    assert [guard.after(token) for token in (5, 1)] == [None, "eos"]


def test_a_looping_page_is_cut() -> None:
    guard = PageGuard(end_token_ids=frozenset({1}), max_tokens=8192)
    reasons = [guard.after(5) for _ in range(WINDOW)]
    assert reasons.index("loop") == NGRAM
