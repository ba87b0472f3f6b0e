from __future__ import annotations

import pytest
import torch

from rtprune.pruning import TokenLayout
from rtprune.pruning.selection import by_score, kept_count, survivors


@pytest.mark.parametrize(
    ("free", "ratio", "kept"),
    [
        (64, 0.25, 48),
        (256, 0.25, 192),
        (400, 0.25, 300),
        (10, 0.9, 1),
        (10, 0.3, 7),
        (3, 0.5, 1),
        (7, 0.0, 7),
        (7, 1.0, 0),
    ],
)
def test_the_floor_is_that_of_the_number_meant(free: int, ratio: float, kept: int) -> None:
    assert kept_count(free, ratio) == kept


def test_every_hundredth_keeps_what_whole_numbers_say() -> None:
    for free in (64, 100, 256, 400):
        for hundredths in range(101):
            assert kept_count(free, hundredths / 100) == free * (100 - hundredths) // 100


def test_the_largest_come_first_and_of_equals_the_earlier() -> None:
    assert by_score(torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0])).tolist() == [1, 2, 3, 4, 0]


def survivors_of(layout: TokenLayout, kept: list[int]) -> list[int]:
    return survivors(layout.kinds, torch.tensor(kept, dtype=torch.bool)).tolist()


def test_newlines_and_separator_stay() -> None:
    # positions: 0 1 n2 3 4 n5 s6
    assert survivors_of(TokenLayout.deepseek_ocr(2), [1, 0, 0, 1]) == [0, 2, 4, 5, 6]


def test_of_newlines_that_became_adjacent_the_first_stays() -> None:
    # positions: 0 1 2 n3 4 5 6 n7 8 9 10 n11 s12; the whole second row goes, and with it its newline
    kept = [1, 1, 1, 0, 0, 0, 0, 1, 0]
    assert survivors_of(TokenLayout.deepseek_ocr(3), kept) == [0, 1, 2, 3, 9, 11, 12]


def test_a_leading_newline_has_nothing_to_be_adjacent_to() -> None:
    assert survivors_of(TokenLayout.deepseek_ocr(2), [0, 0, 1, 1]) == [2, 3, 4, 5, 6]


def test_with_every_free_token_gone_one_newline_and_the_separator_stay() -> None:
    layout = TokenLayout.deepseek_ocr(2, tiles=(1, 1), tile_grid=2)
    assert survivors_of(layout, [0] * 8) == [2, 12]


def test_a_separator_keeps_newlines_apart() -> None:
    layout = TokenLayout(torch.tensor([1, 2, 0, 1, 1]), grid=(1, 1))
    assert survivors_of(layout, [0]) == [0, 1, 3]
