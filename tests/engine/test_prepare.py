"""A page is prepared once, where and when its caller likes, and read as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from rtprune.engine import Engine, PlainPage
from rtprune.engine.prepare import PreparedPage, prepared
from rtprune.errors import Reason
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.settings import ReadSettings
from tests.engine.test_engine import without_times

Draw = Callable[..., Image.Image]


def engine(model: DeepSeekOcr, **settings: Any) -> Engine:
    return Engine(model, ReadSettings(**{"mode": "tiny", "task": "text", "max_output_tokens": 12} | settings))


def test_a_prepared_page_reads_the_same_and_is_not_prepared_again(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = engine(model)
    pages = [PlainPage(draw(seed), "abc") for seed in (1, 2)]
    expected = [result for _, result in sorted(reader.stream(enumerate(pages)))]
    ahead = [reader.prepare(page) for page in pages]
    monkeypatch.setattr(model, "prepare", lambda *_: pytest.fail("prepared twice"))
    tokenize = model.tokenize
    monkeypatch.setattr(model, "tokenize", lambda text: pytest.fail("twice") if text == "abc" else tokenize(text))
    results = [result for _, result in sorted(reader.stream(enumerate(ahead)))]
    assert without_times(results) == without_times(expected)
    assert all(result.timings.encode_ms > 0 for result in results)


def test_a_page_prepared_for_one_mode_is_prepared_anew_for_another(model: DeepSeekOcr, draw: Draw) -> None:
    page = PlainPage(draw(1))
    tiny = prepared(model, page, "tiny")
    assert prepared(model, tiny, "tiny") is tiny
    small = prepared(model, tiny, "small")
    assert (tiny.views.mode, small.views.mode, small.page) == ("tiny", "small", page)


def test_a_page_that_cannot_be_prepared_is_left_to_the_engine_to_refuse(model: DeepSeekOcr, draw: Draw) -> None:
    reader = engine(model, mode="large")
    thin = PlainPage(Image.new("RGB", (5000, 1)))
    assert reader.prepare(thin) is thin
    good = reader.prepare(PlainPage(draw(1)))
    assert isinstance(good, PreparedPage)
    results = dict(reader.stream([("thin", thin), ("good", good)]))
    assert (results["thin"].status, results["thin"].reason) == ("failed", Reason.TOO_THIN)
    assert results["good"].status != "failed"
