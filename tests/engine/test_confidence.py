"""How sure the decoder was: worked by hand, and the same whatever was guessed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from PIL import Image

from rtprune.engine import Engine
from rtprune.engine.confidence import WINDOW, Confidence, confidence
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings


def test_mean_and_weakest_window_by_hand() -> None:
    sure, doubtful = [-0.1] * 30, [-2.0] * WINDOW
    found = confidence([*sure, *doubtful, *sure], lambda count: 3 * count, 1000)
    assert found == Confidence(round((60 * -0.1 + WINDOW * -2.0) / (60 + WINDOW), 6), -2.0, 90)


def test_a_short_answer_is_one_window_and_none_has_no_confidence() -> None:
    assert confidence([-1.0, -3.0], lambda count: count, 2) == Confidence(-2.0, -2.0, 0)
    assert confidence([], lambda count: count, 0) is None


def test_the_place_lies_within_the_text() -> None:
    found = confidence([0.0] * 40 + [-5.0] * WINDOW, lambda count: 100 + count, 90)
    assert found is not None
    assert found.weakest_at == 90


def test_guesses_change_nothing_of_it(model: DeepSeekOcr, draw: Callable[..., Image.Image]) -> None:
    settings = ReadSettings(mode="tiny", task="text", max_output_tokens=40)
    (plain,) = Engine(model, settings, guess=False).read([draw(1)])
    (guided,) = Engine(model, settings).read([draw(1)], [plain.text])
    assert guided.accepted_tokens > 5
    for page in (plain, guided):
        assert page.confidence is not None
        assert -math.log(len("x" * 200)) < page.confidence.weakest <= page.confidence.mean < 0
        assert 0 <= page.confidence.weakest_at <= len(page.text)
    assert plain.confidence is not None
    assert guided.confidence is not None
    assert guided.confidence.mean == pytest.approx(plain.confidence.mean, abs=1e-4)
    assert guided.confidence.weakest == pytest.approx(plain.confidence.weakest, abs=1e-4)
    assert guided.confidence.weakest_at == plain.confidence.weakest_at
