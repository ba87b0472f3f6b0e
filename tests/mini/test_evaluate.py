"""Error rates are what their definition says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtprune.mini.evaluate import edit_distance


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0)],
)
def test_edit_distance_by_hand(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == distance


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edit_distance_equals_its_recursive_definition(left: str, right: str) -> None:
    def defined(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(defined(i - 1, j) + 1, defined(i, j - 1) + 1, defined(i - 1, j - 1) + (left[i - 1] != right[j - 1]))

    if len(left) + len(right) <= 9:
        assert edit_distance(left, right) == defined(len(left), len(right))
    assert edit_distance(left, right) == edit_distance(right, left)
