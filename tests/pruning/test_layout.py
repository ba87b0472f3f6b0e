from __future__ import annotations

import pytest
import torch

from rtprune.pruning import TokenKind, TokenLayout

FREE, NEWLINE, SEPARATOR = (int(kind) for kind in TokenKind)


@pytest.mark.parametrize(("grid", "length"), [(8, 73), (10, 111), (16, 273), (20, 421)])
def test_a_global_view_alone_has_the_length_of_its_mode(grid: int, length: int) -> None:
    layout = TokenLayout.deepseek_ocr(grid)
    assert layout.length == length
    assert layout.free_count == grid * grid


def test_rows_end_in_newlines_and_the_image_in_a_separator() -> None:
    layout = TokenLayout.deepseek_ocr(2)
    assert layout.kinds.tolist() == [FREE, FREE, NEWLINE, FREE, FREE, NEWLINE, SEPARATOR]


def test_tiles_are_stitched_into_one_grid_in_front_of_the_global_view() -> None:
    layout = TokenLayout.deepseek_ocr(1, tiles=(3, 2), tile_grid=1)
    local_row = [FREE, FREE, FREE, NEWLINE]
    assert layout.kinds.tolist() == [*local_row, *local_row, FREE, NEWLINE, SEPARATOR]


def test_gundam_has_the_published_length() -> None:
    columns, rows = 3, 2
    layout = TokenLayout.deepseek_ocr(16, tiles=(columns, rows))
    assert layout.length == 10 * rows * (10 * columns + 1) + 273
    assert layout.free_count == 256 + 100 * rows * columns
    assert layout.grid == (16, 16)


def test_layouts_are_equal_by_content() -> None:
    assert TokenLayout.deepseek_ocr(4) == TokenLayout.deepseek_ocr(4)
    assert hash(TokenLayout.deepseek_ocr(4)) == hash(TokenLayout.deepseek_ocr(4))
    assert TokenLayout.deepseek_ocr(4) != TokenLayout.deepseek_ocr(5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"grid": 0}, "grid"),
        ({"grid": 2.0}, "grid"),
        ({"grid": 2, "tiles": (0, 2)}, "columns"),
        ({"grid": 2, "tiles": (2, -1)}, "rows"),
        ({"grid": 2, "tiles": (2, 2, 2)}, "tiles"),
        ({"grid": 2, "tile_grid": 0}, "tile_grid"),
    ],
)
def test_impossible_grids_are_refused_by_name(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TokenLayout.deepseek_ocr(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kinds",
    [torch.zeros(0, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(3), torch.tensor([0, 3])],
)
def test_kinds_that_are_no_layout_are_refused(kinds: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="kinds"):
        TokenLayout(kinds, grid=(1, 1))
