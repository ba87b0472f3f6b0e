"""Distances are what their definition says; audits compare a page with itself unpruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rtprune.engine import Engine, PlainPage
from rtprune.engine.fidelity import below_floor, edit_distance, normalised_distance
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings

Draw = Callable[..., Image.Image]


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


def test_a_distance_is_a_share_of_the_longer_text() -> None:
    assert normalised_distance("", "") == 0
    assert normalised_distance("abcd", "") == normalised_distance("", "abcd") == 1
    assert normalised_distance("abcd", "abce") == 0.25
    assert normalised_distance("ab", "abcd") == 0.5


def engine(model: DeepSeekOcr, prune: Any = 0.5, **options: Any) -> Engine:
    return Engine(model, ReadSettings(mode="tiny", task="text", prune=prune, max_output_tokens=12), **options)


def pages(draw: Draw, count: int) -> list[tuple[int, PlainPage]]:
    return [(seed, PlainPage(draw(seed))) for seed in range(count)]


def test_an_audit_is_the_distance_to_the_same_page_unpruned(model: DeepSeekOcr, draw: Draw) -> None:
    pruned = dict(engine(model).stream(pages(draw, 4)))
    whole = dict(engine(model, "off").stream(pages(draw, 4)))
    found = dict(engine(model).stream(pages(draw, 4), audited=lambda name: name in (1, 3)))
    assert [found[name].audit is not None for name in range(4)] == [False, True, False, True]
    for name in (1, 3):
        audit = found[name].audit
        assert audit is not None
        assert audit.distance == normalised_distance(pruned[name].text, whole[name].text)
        assert audit.output_tokens == whole[name].output_tokens
    assert [found[name].text for name in range(4)] == [pruned[name].text for name in range(4)]
    assert all(found[name].facts == pruned[name].facts for name in range(4))
    assert any(audit and audit.distance > 0 for audit in (found[1].audit, found[3].audit))


def test_what_was_not_pruned_is_not_audited(model: DeepSeekOcr, draw: Draw) -> None:
    found = dict(engine(model, "off").stream(pages(draw, 2), audited=lambda name: True))
    assert [result.audit for result in found.values()] == [None, None]


def test_pruning_can_be_stopped_in_the_middle(model: DeepSeekOcr, draw: Draw) -> None:
    reader = engine(model, 0.9, slots=1)
    saved = []
    for _, result in reader.stream(pages(draw, 4)):
        assert result.facts is not None
        saved.append(result.facts.free_before - result.facts.free_after)
        if len(saved) == 2:
            reader.stop_pruning()
    assert saved == [58, 58, 0, 0]


def test_a_floor_is_judged_by_ten_pages_at_least() -> None:
    assert [below_floor(audits, 0.2 * audits, 0.9) for audits in (0, 1, 9, 10, 50)] == [False] * 3 + [True] * 2
    assert not below_floor(50, 0.05 * 50, 0.9)
    assert not below_floor(10, 1.0, 0.9), "what just reaches the floor is not below it"
